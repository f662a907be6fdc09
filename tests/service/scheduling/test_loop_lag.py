from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from unittest.mock import Mock

import pytest

from service.scheduling.loop_lag import INTERVAL, TICK, LoopLag


class Loop:
    """An event loop that keeps its one timer until the test lets it come."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[..., None], tuple[float, ...]]] = []

    def call_later(self, delay: float, call: Callable[..., None], *arguments: float) -> asyncio.TimerHandle:
        self.timers.append((self.now + delay, call, arguments))
        return Mock(asyncio.TimerHandle)

    def come(self, late: float) -> None:
        due, call, arguments = self.timers.pop()
        self.now = due + late
        call(*arguments)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    loop = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    return loop


def test_it_is_what_timers_are_late(loop: Loop) -> None:
    lag = LoopLag(lambda: loop.now)
    lag.start()
    for _ in range(300):
        loop.come(late=0.03)
    assert lag.seconds == pytest.approx(0.03 - TICK, rel=0.1)
    for _ in range(20_000):
        loop.come(late=TICK / 2)
    assert lag.seconds < TICK
    assert len(loop.timers) == 1


@pytest.mark.slow
def test_a_running_loop_that_is_held_up_shows() -> None:
    async def hold_up() -> float:
        lag, seen = LoopLag(time.monotonic), 0.0
        lag.start()
        until = time.monotonic() + 60
        while seen < 2 * INTERVAL and time.monotonic() < until:
            busy_until = time.monotonic() + 5 * INTERVAL
            while time.monotonic() < busy_until:
                pass
            await asyncio.sleep(0)
            seen = lag.seconds
        lag.stop()
        return seen

    assert asyncio.run(hold_up()) >= 2 * INTERVAL
