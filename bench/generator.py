"""The process of a load generator: its own, so that neither the server's Python nor the command's delays a request."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

Load = TypeVar("Load")
Result = TypeVar("Result")


@contextmanager
def in_own_process(send: Callable[[Load], Coroutine[Any, Any, Result]], load: Load) -> Iterator[Future[Result]]:
    """Context manager: runs `send(load)` in another process, and yields the future of its result."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool.submit(_run, send, load)


def _run(send: Callable[[Load], Coroutine[Any, Any, Result]], load: Load) -> Result:
    import uvloop

    gc.disable()  # its pauses would add to the lag
    with suppress(PermissionError):
        # Without it, other threads on shared cores delay the generator by whole scheduler slices: beside eight busy
        # processes on two cores, the p99 of its lag was 8 ms, 12 with nice -10 (which autogroups undo), and 1 with it.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    return uvloop.run(send(load))
