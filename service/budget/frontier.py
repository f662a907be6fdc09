"""Which (N, M) a checkpoint's measurements recommend, among those that there is time for.

The rule:

1. A cell is surely better than another if the 95 % interval of the difference of their rates is above 0: Newcombe's,
   made of both cells' Wilson intervals ("Interval estimation for the difference between independent proportions",
   Statistics in Medicine 17, 1998, method 10).
2. A cell is surpassed if another cell, with no more candidates and no more steps, is surely better. Surpassed cells are
   dropped once, when the policy is loaded.
3. Of the allowed cells, the one with the highest success leads.
4. Every allowed cell that the leader is not surely better than is tied with it. Of the tied cells, the one with the
   most candidates is chosen, then the one with the most steps.

A surpassed cell is dominated as well (`policy.dominance`), but most dominated cells are not surpassed. `dominated`
compares the success rates as they were measured, and informs people who choose a budget. This rule chooses for them,
and 50 episodes leave a rate uncertain by some ten points: what is not surely worse stays, and spare time goes to more
candidates. Without dominated cells pointmaze-medium would always get (1, 1), which equals (8, 2) with 50 of 50
episodes; over 200 further ones each, (1, 1) has 97.5 % and (8, 2) 100 %. The price is that a dominated cell may be
granted where there is time to spare.

Cells were tied once where their intervals overlapped, which is so up to p = 0.005 or so. Scene then got (16, 8), 86 %,
where there was time for (4, 8), 100 %, and cube-single-h5 (32, 4), 82 %, in place of (16, 8), 92 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import lru_cache

from policy.spec import Budget, Measurement

Allowed = Callable[[int, int], bool]


class Frontier:
    """A checkpoint's measured cells.

    Args:
        cells: from its spec.
    """

    def __init__(self, cells: Iterable[Measurement]) -> None:
        self._measured = tuple(sorted(cells, key=_descending))
        self._unsurpassed = tuple(c for c in self._measured if not any(_surpasses(d, c) for d in self._measured))

    def __bool__(self) -> bool:
        return bool(self._measured)

    def best(self, allowed: Allowed) -> Budget | None:
        """The budget by the rule above; None if no cell is allowed. O(cells)."""
        return _best(self._unsurpassed, allowed)

    def best_with(self, allowed: Allowed) -> Budget | None:
        """The same with surpassed cells kept: for an `allowed` that holds N or M fixed."""
        return _best(self._measured, allowed)


@lru_cache(maxsize=256)
def unmeasured(num_candidates: int, num_steps: int) -> Frontier:
    """A frontier for a policy without measurements: N, M and the powers of two below them, all tied.

    By the rule it chooses as many candidates as there is time for with one step, then as many steps.
    """
    return Frontier(
        Measurement(n, m, success=0.5, low=0.0, high=1.0, episodes=1)
        for n in _powers_up_to(num_candidates)
        for m in _powers_up_to(num_steps)
    )


def _best(cells: Iterable[Measurement], allowed: Allowed) -> Budget | None:
    leader = chosen = None
    for cell in cells:  # in descending order of success
        if allowed(cell.num_candidates, cell.num_steps):
            if leader is None or chosen is None:
                leader = chosen = cell
            elif not _surely_better(leader, cell) and _size(cell) > _size(chosen):
                chosen = cell
    return None if chosen is None else Budget(chosen.num_candidates, chosen.num_steps)


def _descending(cell: Measurement) -> tuple[float, float, int, int]:
    return -cell.success, -cell.low, -cell.num_candidates, -cell.num_steps


def _size(cell: Measurement) -> tuple[int, int]:
    return cell.num_candidates, cell.num_steps


def _surely_better(one: Measurement, other: Measurement) -> bool:
    return one.success - other.success > math.hypot(one.success - one.low, other.high - other.success)


def _surpasses(one: Measurement, other: Measurement) -> bool:
    no_larger = one.num_candidates <= other.num_candidates and one.num_steps <= other.num_steps
    return no_larger and _surely_better(one, other)


def _powers_up_to(largest: int) -> list[int]:
    return [*(1 << power for power in range(largest.bit_length()) if 1 << power < largest), largest]
