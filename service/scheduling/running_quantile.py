"""A running quantile: how long something takes in all but 1 % of cases, lately."""

from __future__ import annotations

import math
from collections.abc import Callable

QUANTILE = 0.99
STEP = 0.05  # relative change of the estimate by one observation above it
LEAST, MOST = 0.0002, 0.25  # seconds
QUIET, HALF_LIFE = 0.1, 0.5  # seconds without observations until the estimate decays, and the half-life of that decay


class RunningQuantile:
    """The 99th percentile of the durations observed lately, in seconds.

    Each observation above the estimate raises it by 5 % x 0.99, each one below lowers it by 5 % x 0.01. The estimate
    is therefore steady when 1 % of the observations lie above it. It follows a machine whose load changes, and one
    slow observation moves it little.

    While nothing is observed the estimate halves every `HALF_LIFE` seconds. Otherwise an estimate that once grew
    beyond every deadline would have every request refused, and would never see that times are better.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seconds = 0.001
        self._observed = clock()

    @property
    def seconds(self) -> float:
        """The estimate now."""
        quiet = self._clock() - self._observed - QUIET
        if quiet <= 0:
            return self._seconds
        return max(self._seconds * math.exp2(-quiet / HALF_LIFE), LEAST)

    def observe(self, seconds: float) -> None:
        """Take in one duration; a negative one counts as below the estimate."""
        before = self.seconds
        moved = before * (1 + STEP * (QUANTILE if seconds > before else QUANTILE - 1))
        self._seconds = min(max(moved, LEAST), MOST)
        self._observed = self._clock()
