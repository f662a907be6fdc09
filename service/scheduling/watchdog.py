"""Notices a call in the worker thread that does not return. Nobody can end a native call: the process must end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Watchdog:
    """Looks at the worker thread from the event loop, four times in `stuck_seconds`.

    Args:
        busy_since: when the running call began, on `clock`; None while there is none.
        stuck_seconds: a call that takes longer is stuck.
        on_stuck: called once, on the event loop.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        busy_since: Callable[[], float | None],
        stuck_seconds: float,
        on_stuck: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._busy_since = busy_since
        self._stuck_seconds = stuck_seconds
        self._on_stuck = on_stuck
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Watch from now on. From the event loop."""
        self._timer = asyncio.get_running_loop().call_later(self._stuck_seconds / 4, self._look)

    def stop(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()

    def stuck(self) -> bool:
        """Has a call been running for too long?"""
        since = self._busy_since()
        return since is not None and self._clock() - since > self._stuck_seconds

    def _look(self) -> None:
        if self.stuck():
            self._on_stuck()
        else:
            self.start()
