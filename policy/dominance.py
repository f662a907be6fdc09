"""Which measured cells are not worth their compute, and which one is best: for `sorl-export`, the server and its page.

A cell is dominated if a cheaper one measured as well or better. Cheaper: no more candidates, no more steps, and fewer
of one of them. As well or better: by the success rates themselves; their intervals are not asked.

The server grants by the same order (service/budget/frontier.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from policy.spec import Measurement


def best_measured(cells: Iterable[Measurement]) -> Measurement | None:
    """The cell of highest success; None if there is no cell. No cell dominates it.

    Among equals, the one of least compute N x M, then of fewest steps.
    """
    return max(cells, key=lambda c: (c.success, -c.num_candidates * c.num_steps, -c.num_steps), default=None)


def dominating(cell: Measurement, cells: Iterable[Measurement]) -> Measurement | None:
    """The best of the `cells` that dominate `cell`; None if it is not dominated. `cells` may hold `cell`."""
    return best_measured(other for other in cells if other.success >= cell.success and _cheaper(other, cell))


def _cheaper(one: Measurement, other: Measurement) -> bool:
    no_more = one.num_candidates <= other.num_candidates and one.num_steps <= other.num_steps
    return no_more and (one.num_candidates, one.num_steps) != (other.num_candidates, other.num_steps)
