"""`Pace`: ticks at a fixed rate."""

from __future__ import annotations

from collections.abc import Callable


class Pace:
    """Ticks `period_s` seconds apart. After one that is late, later ticks are shifted: none is skipped or shortened."""

    def __init__(self, period_s: float, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._period_s = period_s
        self._clock = clock
        self._sleep = sleep
        self.restart()

    def restart(self) -> None:
        """Let a tick begin now."""
        self._tick = self._clock()

    def wait(self) -> None:
        """Return when the next tick begins: at once if that time has passed."""
        self._tick += self._period_s
        early_s = self._tick - self._clock()
        if early_s > 0.0:
            self._sleep(early_s)
        else:
            self.restart()
