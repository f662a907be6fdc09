"""What a deadline must leave for things that take varying time: waking the event loop and writing the reply, say."""

from __future__ import annotations

import math
from collections.abc import Callable

SHARE = 0.99  # of what is observed stays within the reserve
STEP = 0.05
LEAST, MOST = 0.0002, 0.25  # seconds
QUIET, HALF_LIFE = 0.1, 0.5  # seconds: what has not been observed for so long is forgotten by so much


class Reserve:
    """A running quantile of seconds.

    Each observation moves it by a fixed factor, up if it took longer and, so that `SHARE` of them don't, down by less
    if it took less. So it follows a busy machine, and one slow observation changes little.

    It halves every `HALF_LIFE` seconds while nothing is observed: else a reserve that once grew beyond all deadlines
    would have every request refused, and never see that times are better.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seconds = 0.001
        self._observed = clock()

    @property
    def seconds(self) -> float:
        """To keep back now."""
        quiet = self._clock() - self._observed - QUIET
        if quiet <= 0:
            return self._seconds
        return max(self._seconds * math.exp2(-quiet / HALF_LIFE), LEAST)

    def observe(self, seconds: float) -> None:
        """It took `seconds`; below zero it was early."""
        before = self.seconds
        moved = before * (1 + STEP * (SHARE if seconds > before else SHARE - 1))
        self._seconds = min(max(moved, LEAST), MOST)
        self._observed = self._clock()
