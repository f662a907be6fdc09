from __future__ import annotations

import pytest

from kernels import threads


def test_more_threads_than_cores_are_capped_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    assert [threads.at_most_cores(asked) for asked in (0, 1, 2)] == [0, 1, 2]
    assert not caplog.text
    assert threads.at_most_cores(100) == 2
    assert "100 asked for" in caplog.text
