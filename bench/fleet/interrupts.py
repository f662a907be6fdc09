"""Ctrl-C is for the command alone, which then ends the processes that it has started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def children_ignore_ctrl_c() -> Iterator[None]:
    """Context manager: processes that are started within the block never receive SIGINT."""
    from training.signals import sigint_blocked

    resource_tracker.ensure_running()  # the first process would start it, which ends a block of SIGINT
    with sigint_blocked():
        yield
