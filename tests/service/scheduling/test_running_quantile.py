from __future__ import annotations

import numpy as np
import pytest

from service.scheduling.running_quantile import HALF_LIFE, LEAST, MOST, QUIET, RunningQuantile


@pytest.mark.parametrize("scale", [0.5e-3, 5e-3])
def test_it_settles_where_one_reply_in_a_hundred_takes_longer(scale: float) -> None:
    rng, reserve = np.random.default_rng(0), RunningQuantile(lambda: 0.0)
    replies = rng.gamma(4.0, scale / 4, size=40_000)
    kept = []
    for reply in replies:
        reserve.observe(float(reply))
        kept.append(reserve.seconds)
    settled = np.array(kept[20_000:])
    assert 0.98 < np.mean(replies[20_000:] <= settled) < 0.995
    assert np.median(settled) == pytest.approx(np.quantile(replies, 0.99), rel=0.3)


def test_one_slow_reply_changes_little() -> None:
    reserve = RunningQuantile(lambda: 0.0)
    before = reserve.seconds
    reserve.observe(60.0)
    assert before < reserve.seconds < 1.06 * before


def test_it_is_forgotten_while_nothing_is_observed() -> None:
    now = 0.0
    reserve = RunningQuantile(lambda: now)
    for _ in range(200):
        reserve.observe(0.1)
    grown = reserve.seconds
    assert grown >= 0.1
    now = QUIET
    assert reserve.seconds == grown
    now = QUIET + 2 * HALF_LIFE
    assert reserve.seconds == pytest.approx(grown / 4)
    reserve.observe(0.0)
    assert reserve.seconds == pytest.approx(grown / 4, rel=0.01)
    now = 1e6
    assert reserve.seconds == LEAST


def test_it_stays_within_reason() -> None:
    reserve = RunningQuantile(lambda: 0.0)
    for seconds, end in [(0.0, LEAST), (9.0, MOST)]:
        for _ in range(20_000):
            reserve.observe(seconds)
        assert reserve.seconds == end
