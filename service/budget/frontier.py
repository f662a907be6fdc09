"""Which (N, M) a checkpoint's measurements recommend, among those that there is time for.

The rule: the highest measured success. Among equals the policy's default budget, then the least compute N x M, then the
fewest steps. So what is granted is never dominated (`policy.dominance`), but for a default that is.

Spare time is not spent: cells used to be tied unless they differed significantly, and of tied cells the largest was
granted. Beside a load of half of what the server could do at (8, 8), cube-single's robots were then granted (32, 8)
where there was time, met the queues that this made, and got (1, 1) the rest of the time: 5 % success, where (8, 8) for
all had 90 % (docs/serving-benchmarks.md, the fleet).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import lru_cache

from policy.spec import Budget, Measurement

Allowed = Callable[[int, int], bool]


class Frontier:
    """Budgets from best to worst.

    Args:
        order: of all of them.
        success: measured, of each of them, or of none.
    """

    def __init__(self, order: Iterable[Budget], success: Iterable[float] = ()) -> None:
        self._order = tuple(order)
        self._success = tuple(success)

    @classmethod
    def measured(cls, cells: Iterable[Measurement], default: Budget) -> Frontier:
        """A checkpoint's cells, by the rule above. Empty without cells."""

        def rank(cell: Measurement) -> tuple[float, bool, int, int]:
            n, m = cell.num_candidates, cell.num_steps
            return -cell.success, (n, m) != (default.num_candidates, default.num_steps), n * m, m

        order = sorted(cells, key=rank)
        return cls((Budget(cell.num_candidates, cell.num_steps) for cell in order), (cell.success for cell in order))

    def __bool__(self) -> bool:
        return bool(self._order)

    def best(self, allowed: Allowed) -> Budget | None:
        """The best budget that is allowed; None if none is. O(cells)."""
        return next((one for one in self._order if allowed(one.num_candidates, one.num_steps)), None)

    def at_least(self, quality: float) -> Frontier:
        """The budgets that were measured to have at least this share, 0 to 1, of the best one's success."""
        if not quality:
            return self
        count = bisect_right(self._success, -quality * max(self._success, default=0.0), key=lambda success: -success)
        return Frontier(self._order[:count], self._success[:count])

    def quality(self, allowed: Allowed) -> float:
        """What `at_least` may be asked for so that one of the allowed budgets is left; 0 if none was measured."""
        measured = zip(self._order, self._success, strict=False)
        found = [success for one, success in measured if allowed(one.num_candidates, one.num_steps)]
        best = max(self._success, default=0.0)
        return max(found, default=0.0) / best if best else float(bool(found))


@lru_cache(maxsize=256)
def unmeasured(num_candidates: int, num_steps: int) -> Frontier:
    """A frontier for a policy without measurements: N, M and the powers of two below them.

    As many candidates as there is time for with one step come first, then as many steps.
    """
    return Frontier(Budget(n, m) for n in _powers_down_from(num_candidates) for m in _powers_down_from(num_steps))


def _powers_down_from(largest: int) -> list[int]:
    return [largest, *(1 << power for power in reversed(range(largest.bit_length())) if 1 << power < largest)]
