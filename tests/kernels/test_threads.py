from __future__ import annotations

import pytest

from kernels import threads


def test_more_threads_than_cores_are_capped_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    threads._warn.cache_clear()
    assert [threads.at_most_cores(asked) for asked in (0, 1, 2)] == [0, 1, 2]
    assert not caplog.text
    assert [threads.at_most_cores(100) for _ in range(3)] == [2, 2, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "threads: 100 asked for, and this process has 2 cores: using 2"
    ]
