"""The one rule for deadlines: from a request's `deadline_ms` to the seconds that are left for compute.

    received - loop lag           the request arrived
    + deadline_ms                 Deadline.reply: the client expects the reply
    - reply time                  Deadline.compute: compute must end
    - now                         TimeLeft.idle: what this server could spend without its queue
    - backlog                     TimeLeft.now: what this server can spend
    with the least lag and reply time            TimeLeft.best: what this server could spend at its best

Loop lag and reply time are running 99th percentiles of what is measured on this server.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from service.scheduling.loop_lag import LoopLag
from service.scheduling.running_quantile import LEAST, RunningQuantile
from service.timing import Deadline, TimeLeft


class Deadlines:
    """Turns deadlines into time left, and learns what they must leave for everything but compute.

    Args:
        backlog: seconds until a request of a priority, with a deadline, would be begun (`Scheduler.backlog`).
        clock: seconds, monotonic.
    """

    def __init__(self, backlog: Callable[[int], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._backlog = backlog
        self._clock = clock
        self._lag = LoopLag(clock)
        self._reply_time = RunningQuantile(clock)

    @property
    def lag_seconds(self) -> float:
        """Event-loop lag, 99th percentile."""
        return self._lag.seconds

    @property
    def reply_seconds(self) -> float:
        """From the end of compute to the encoded reply, 99th percentile."""
        return self._reply_time.seconds

    def start(self) -> None:
        """Measure the event loop's lag from now on. From the event loop."""
        self._lag.start()

    def stop(self) -> None:
        """Stop measuring."""
        self._lag.stop()

    def deadline(self, received: float, milliseconds: float | None) -> Deadline | None:
        """The deadline of a request that the event loop read at `received`; None without `deadline_ms`."""
        if milliseconds is None:
            return None
        reply = received - self._lag.seconds + milliseconds / 1000
        return Deadline(reply, reply - self._reply_time.seconds)

    def time_left(self, deadline: Deadline | None, priority: int) -> TimeLeft | None:
        """What `deadline` leaves for compute now; None without a deadline."""
        if deadline is None:
            return None
        idle = deadline.compute - self._clock()
        slower = self._lag.seconds + self._reply_time.seconds - 2 * LEAST
        return TimeLeft(now=idle - self._backlog(priority), idle=idle, best=idle + slower)

    def observe_reply(self, seconds: float) -> None:
        """Learn from a reply: `seconds` passed from the end of its compute until it was encoded."""
        self._reply_time.observe(seconds)
