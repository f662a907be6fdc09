from __future__ import annotations

import asyncio

import pytest

from service.scheduling.watchdog import Watchdog

pytestmark = pytest.mark.anyio
WAIT = 30


class Engine:
    """When it was called, on a clock that the test sets."""

    since: float | None = None
    now = 0.0


def watch(engine: Engine, seconds: float, told: list[None]) -> Watchdog:
    return Watchdog(lambda: engine.since, seconds, lambda: told.append(None), lambda: engine.now)


def test_stuck_is_a_call_that_has_been_out_too_long() -> None:
    engine = Engine()
    watchdog = watch(engine, 10.0, [])
    for since, now, stuck in [(None, 1e6, False), (100.0, 110.0, False), (100.0, 110.5, True), (110.4, 110.5, False)]:
        engine.since, engine.now = since, now
        assert watchdog.stuck() is stuck


async def test_told_once_and_only_of_a_stuck_one() -> None:
    engine, told = Engine(), asyncio.Event()
    times: list[None] = []
    looks = 0

    def clock() -> float:
        nonlocal looks
        looks += 1
        if looks == 3:
            engine.now = 20.0  # the third look finds the call that began at 0 still out
        return engine.now

    def on_stuck() -> None:
        times.append(None)
        told.set()

    engine.since = 0.0
    watchdog = Watchdog(lambda: engine.since, 0.004, on_stuck, clock)
    watchdog.start()
    await asyncio.wait_for(told.wait(), WAIT)
    assert (looks, times) == (3, [None])
    watchdog.stop()


async def test_a_stopped_watchdog_looks_no_more() -> None:
    engine, told = Engine(), []
    watchdog = watch(engine, 0.001, told)
    watchdog.start()
    watchdog.stop()
    engine.since, engine.now = 0.0, 100.0
    timer = watchdog._timer
    assert timer is not None
    assert timer.cancelled()
    watchdog.stop()
    assert not told
