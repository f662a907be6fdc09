from __future__ import annotations

import numpy as np
import pytest

from service.reserve import LEAST, MOST, Reserve


@pytest.mark.parametrize("scale", [0.5e-3, 5e-3])
def test_it_settles_where_one_reply_in_ten_takes_longer(scale: float) -> None:
    rng, reserve = np.random.default_rng(0), Reserve()
    replies = rng.gamma(4.0, scale / 4, size=4000)
    kept = []
    for reply in replies:
        reserve.observe(float(reply))
        kept.append(reserve.seconds)
    settled = np.array(kept[2000:])
    assert 0.85 < np.mean(replies[2000:] <= settled) < 0.95
    assert np.median(settled) == pytest.approx(np.quantile(replies, 0.9), rel=0.3)


def test_one_slow_reply_changes_little() -> None:
    reserve = Reserve()
    before = reserve.seconds
    reserve.observe(60.0)
    assert before < reserve.seconds < 1.06 * before


def test_it_stays_within_reason() -> None:
    reserve = Reserve()
    for seconds, end in [(0.0, LEAST), (9.0, MOST)]:
        for _ in range(3000):
            reserve.observe(seconds)
        assert reserve.seconds == end
