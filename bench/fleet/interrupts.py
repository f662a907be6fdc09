"""Ctrl-C is for the command alone, which then ends the processes that it has started."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def children_ignore_ctrl_c() -> Iterator[None]:
    """Context manager: processes that are started within the block never receive SIGINT. Main thread only.

    For this process it is put off to the block's end: a process that is half started would print a traceback. To block
    the signal is not enough for that, as another thread may take it (a progress bar has one).
    """
    from training.signals import sigint_blocked, stop_requests

    resource_tracker.ensure_running()  # the first process would start it, which ends a block of SIGINT
    with stop_requests() as received, sigint_blocked():
        yield
    for number in received:
        signal.raise_signal(number)
