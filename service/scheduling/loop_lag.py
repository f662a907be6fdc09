"""Event-loop lag: how long a request that has arrived waits until the event loop reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from service.scheduling.running_quantile import RunningQuantile

INTERVAL = 0.01  # seconds between measurements
TICK = 0.001  # seconds: the resolution of uvloop's timers


class LoopLag:
    """Measures event-loop lag with a timer that it sets again and again: the timer's delay is the lag.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lag = RunningQuantile(clock)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def seconds(self) -> float:
        """The 99th percentile of event-loop lag, in seconds."""
        return self._lag.seconds

    def start(self) -> None:
        """Measure from now on. From the event loop."""
        self._loop = asyncio.get_running_loop()
        self._wait()

    def stop(self) -> None:
        """Stop measuring."""
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        self._timer = self._loop.call_later(INTERVAL, self._measure, self._clock() + INTERVAL)

    def _measure(self, due: float) -> None:
        self._lag.observe(self._clock() - due - TICK)
        self._wait()
