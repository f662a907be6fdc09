"""SIGINT and SIGTERM: as requests to stop after the current step, and kept from worker processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Yield a list; within the block, SIGINT and SIGTERM append their number to it and do nothing else.

    Main thread only, as Python delivers signals there.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def sigint_blocked() -> Iterator[None]:
    """Block SIGINT; it is delivered at the block's end. Processes started within the block never receive it.

    Ctrl-C signals the terminal's whole process group, and a worker that is still importing would print a traceback.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
