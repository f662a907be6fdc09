"""`RetryPolicy`: how often a request is sent again, and after what time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sorl_client import parameters
from sorl_client.errors import InvalidArgument


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with full jitter.

    The wait after the n-th failure (n = 0, 1, ...) is uniform in [0, min(longest_s, first_s * 2^n)], so that robots
    whose requests failed at the same time do not retry at the same time. A server's retry-after time is added to it;
    above `patience_s` seconds there is no retry. Only errors that may pass are retried (429, 503, broken connections,
    and a gateway's own 500 or 502). `attempts` counts all sends; 1 never retries. Raises InvalidArgument by a field's
    name.
    """

    attempts: int = 5
    first_s: float = 0.02
    longest_s: float = 1.0
    patience_s: float = 30.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "attempts", parameters.AT_LEAST_ONE("attempts", self.attempts))
        for name in ("first_s", "longest_s", "patience_s"):
            object.__setattr__(self, name, parameters.WAIT_S(name, getattr(self, name)))
        if self.first_s > self.longest_s:
            fault = f"first_s: expected at most longest_s = {self.longest_s}; found {self.first_s}"
            raise InvalidArgument(fault, field="first_s")

    def wait_s(self, failures: int, retry_after_s: float | None, random: Callable[[], float]) -> float | None:
        """Seconds to wait after failure number `failures` (from 0); None gives up. `random` draws from [0, 1)."""
        failures = parameters.COUNT("failures", failures)
        asked = parameters.RETRY_AFTER_S.or_none("retry_after_s", retry_after_s) or 0.0
        if failures + 1 >= self.attempts or asked > self.patience_s:
            return None
        return asked + random() * min(self.longest_s, self.first_s * 2.0 ** min(failures, 1023))
