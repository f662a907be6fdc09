"""Which (N, M) a checkpoint's measurements recommend, among those that there is time for.

The rule: the highest measured success. Among equals the policy's default budget, then the least compute N x M, then the
fewest steps. So what is granted is never dominated (`policy.dominance`), but for a default that is.

Spare time is not spent: cells used to be tied unless they differed significantly, and of tied cells the largest was
granted. Beside a load of half of what the server could do at (8, 8), cube-single's robots were then granted (32, 8)
where there was time, met the queues that this made, and got (1, 1) the rest of the time: 5 % success, where (8, 8) for
all had 90 % (docs/serving-benchmarks.md, the fleet).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from policy.spec import Budget, Measurement

Allowed = Callable[[int, int], bool]


class Frontier:
    """Budgets from best to worst.

    Args:
        order: of all of them.
    """

    def __init__(self, order: Iterable[Budget]) -> None:
        self._order = tuple(order)

    @classmethod
    def measured(cls, cells: Iterable[Measurement], default: Budget) -> Frontier:
        """A checkpoint's cells, by the rule above. Empty without cells."""

        def rank(cell: Measurement) -> tuple[float, bool, int, int]:
            n, m = cell.num_candidates, cell.num_steps
            return -cell.success, (n, m) != (default.num_candidates, default.num_steps), n * m, m

        return cls(Budget(cell.num_candidates, cell.num_steps) for cell in sorted(cells, key=rank))

    def __bool__(self) -> bool:
        return bool(self._order)

    def best(self, allowed: Allowed) -> Budget | None:
        """The best budget that is allowed; None if none is. O(cells)."""
        return next((one for one in self._order if allowed(one.num_candidates, one.num_steps)), None)


@lru_cache(maxsize=256)
def unmeasured(num_candidates: int, num_steps: int) -> Frontier:
    """A frontier for a policy without measurements: N, M and the powers of two below them.

    As many candidates as there is time for with one step come first, then as many steps.
    """
    return Frontier(Budget(n, m) for n in _powers_down_from(num_candidates) for m in _powers_down_from(num_steps))


def _powers_down_from(largest: int) -> list[int]:
    return [largest, *(1 << power for power in reversed(range(largest.bit_length())) if 1 << power < largest)]
