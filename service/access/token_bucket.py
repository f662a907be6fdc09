"""A token bucket: so much a second, with a burst."""

from __future__ import annotations

from collections.abc import Callable


class TokenBucket:
    """Over any window of `w` seconds, at most `rate * w + burst` is taken.

    Args:
        rate: that comes back in a second.
        burst: the most that it holds. It begins full.
        clock: seconds.
    """

    __slots__ = ("_clock", "_held", "_updated", "burst", "rate")

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self.rate = rate
        self.burst = burst
        self._clock = clock
        self._held = burst
        self._updated = clock()

    def wait(self, amount: float) -> float:
        """Seconds until `amount` can be taken, if nobody takes any before; 0.0: now. Infinite above `burst`."""
        now = self._clock()
        self._held = min(self.burst, self._held + (now - self._updated) * self.rate)
        self._updated = now
        if amount <= self._held:
            return 0.0
        return (amount - self._held) / self.rate if amount <= self.burst else float("inf")

    def take(self, amount: float) -> None:
        """Take what `wait` has just said is there."""
        self._held -= amount
