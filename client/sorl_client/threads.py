"""`Threads`: daemon threads that wait for the network, so that their caller need not."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
Job = tuple[Callable[[], Any], Callable[[Any], None]]


class Threads:
    """Threads that are kept for the next job: a hand-over takes 14 us, a new thread 65 us and at times 4 ms.

    A caller can stop waiting for a job; no socket's time-out bounds look-ups of names, or replies that trickle in. The
    threads are daemons, so a job that hangs does not keep the process from ending.
    """

    def __init__(self) -> None:
        self._idle: list[SimpleQueue[Job | None]] = []
        self._closed = False
        self._process = os.getpid()
        self._lock = threading.Lock()

    def run(self, job: Callable[[], T], done: Callable[[T], None]) -> None:
        """Run `job` in a thread, then `done` with its result. Neither may raise."""
        with self._lock:
            if self._process != os.getpid():  # a fork has this object, and none of its threads
                self._process, self._idle = os.getpid(), []
            inbox = self._idle.pop() if self._idle else None
        if inbox is None:
            inbox = SimpleQueue()
            threading.Thread(target=self._work, args=(inbox,), name="sorl-client", daemon=True).start()
        inbox.put((job, done))

    def close(self) -> None:
        """Let idle threads end; the others do after their job."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for inbox in idle:
            inbox.put(None)

    def _work(self, inbox: SimpleQueue[Job | None]) -> None:
        while (work := inbox.get()) is not None:
            job, done = work
            result = job()
            with self._lock:
                closed = self._closed
                if not closed:
                    self._idle.append(inbox)  # before `done`, so that a caller's next job finds this thread
            done(result)
            del work, job, done, result  # they would live until the next job
            if closed:
                return
