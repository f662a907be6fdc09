"""How often, and how long after a failure, a request is sent again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with full jitter.

    The wait after the n-th failure (n = 0, 1, ...) is uniform in [0, min(longest_s, first_s * 2^n)], so that robots
    that failed together do not come back together; if the server said when to come back, it is that much later.
    A server that says more than `patience_s` is not waited for. Only what may succeed unchanged is sent again (503,
    connections that broke, and a gateway's own 500 or 502), at most `attempts` times in all; 1 never retries.
    """

    attempts: int = 5
    first_s: float = 0.02
    longest_s: float = 1.0
    patience_s: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}")
        if not 0.0 <= self.first_s <= self.longest_s < math.inf:
            raise ValueError(f"need 0 <= first_s <= longest_s, got {self.first_s} and {self.longest_s}")

    def wait_s(self, failures: int, retry_after_s: float | None, random: Callable[[], float]) -> float | None:
        """Seconds to wait after failure number `failures` (from 0), None to give up; `random` draws from [0, 1)."""
        asked = retry_after_s or 0.0
        if failures + 1 >= self.attempts or asked > self.patience_s:
            return None
        return asked + random() * min(self.longest_s, self.first_s * 2.0**failures)
