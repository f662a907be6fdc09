"""How long what arrives waits for the event loop, before any of our code can look at the time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from service.scheduling.running_quantile import Reserve

EVERY = 0.01  # seconds
TICK = 0.001  # seconds: uvloop's timers are as fine as that


class LoopLag:
    """Sets itself a timer again and again, and looks how late it comes.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._reserve = Reserve(clock)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def seconds(self) -> float:
        """That 99 of 100 timers are late at most, as a request is that comes over the network."""
        return self._reserve.seconds

    def start(self) -> None:
        """Look from now on. From the event loop."""
        self._loop = asyncio.get_running_loop()
        self._wait()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        self._timer = self._loop.call_later(EVERY, self._look, self._clock() + EVERY)

    def _look(self, due: float) -> None:
        self._reserve.observe(self._clock() - due - TICK)
        self._wait()
