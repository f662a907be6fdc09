"""Gives a decoder many inputs: does anything but its own errors come out, how long does each take, what stays?"""

from __future__ import annotations

import gc
import signal
import time
import tracemalloc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from hypothesis import HealthCheck, Phase, given, settings

from tests.service.fuzz.decoders import Decoder

MOST_SECONDS = 1.0
"""CPU time of one input: what else the machine does is not counted."""

MOST_KEPT = 256 * 1024
"""Bytes that may stay after all inputs have been read again. Caches of a few hundred entries fit into it."""


class TookTooLong(BaseException):
    """No decoder catches it, whatever it catches."""


@dataclass(frozen=True)
class Report:
    """What a decoder did.

    Attributes:
        inputs: how many it was given.
        accepted: of these, those it did not refuse.
        seconds: of CPU time, to read each of them once.
        slowest: of one, in CPU seconds.
        kept: bytes that stayed allocated after it had read them once more.
    """

    inputs: int
    accepted: int
    seconds: float
    slowest: float
    kept: int


def fuzz(decoder: Decoder, inputs: int, repeatable: bool) -> Report:
    """Give `decoder` its valid inputs and `inputs` others, then all of them twice more, for the time and the memory.

    Args:
        repeatable: the same inputs every time, or new ones.

    Raises:
        Whatever the decoder raises but its own errors, with the smallest input found that does it.
        AssertionError: it refused a valid input, or an input made it warn: a server would print that.
        TookTooLong: of one input.
    """
    seen: list[bytes] = []
    accepted = 0

    def read(data: bytes) -> bool:
        nonlocal accepted
        seen.append(data)
        with _limited(), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")  # an error would be caught as any other
            taken = decoder.read(data)
        assert not warned, f"a warning: {warned[0].message}"
        accepted += taken
        return taken

    for data in decoder.valid:
        assert read(data), f"refused {data!r}"

    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        derandomize=repeatable,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(decoder.inputs)
    def others(data: bytes) -> None:
        read(data)

    others()
    seconds, slowest = _time(decoder, seen)
    return Report(len(seen), accepted, seconds, slowest, _kept(decoder, seen))


@contextmanager
def _limited() -> Iterator[None]:
    """Raises TookTooLong inside, once `MOST_SECONDS` of this process's CPU time have passed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise TookTooLong(f"more than {MOST_SECONDS} s of CPU time for one input")

    before = signal.signal(signal.SIGVTALRM, interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _time(decoder: Decoder, inputs: list[bytes]) -> tuple[float, float]:
    """CPU seconds: (of all, of the slowest). Garbage that others left is not collected meanwhile."""
    total, slowest = 0.0, 0.0
    gc.collect()
    gc.freeze()
    try:
        for data in inputs:
            started = time.thread_time()
            decoder.read(data)
            spent = time.thread_time() - started
            total, slowest = total + spent, max(slowest, spent)
    finally:
        gc.unfreeze()
    return total, slowest


def _kept(decoder: Decoder, inputs: list[bytes]) -> int:
    """Bytes that stay allocated after `inputs` have been read, by a decoder that has read them before."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for data in inputs:
            decoder.read(data)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
