"""`sorl-bench swap`: a real server with two swaps, and the table's rows from planted times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import swap
from bench.swap import Asked, SwapBenchConfig, Swapped, rows_of
from policy import save_policy
from tests.policies import random_policy


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save_policy(random_policy(), path)
    return path


@pytest.mark.slow
def test_two_swaps_of_a_real_server_lose_no_request(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "swap.json"
    # The deadline is long, since other tests may have the cores: what is late under which load is not for a test.
    asked = ["--model", str(model), "--swaps", "2", "--pause", "0.1", "--deadline-ms", "20000", "--json", str(path)]
    assert swap.main(asked) == 0
    rows = json.loads(path.read_text())["rows"]
    assert {(row["load"], row["client"], row["when"]) for row in rows} == {
        (load, client, when)
        for load, clients in swap.LOADS.items()
        for client in clients
        for when in ("during", "between")
    }
    assert {(row["swaps"], row["504"], row["other failures"]) for row in rows} == {(2, 0, 0)}
    assert all(row["requests"] > 0 for row in rows if row["when"] == "during" and row["client"] == "closed loop")
    assert "robot and loop" in capsys.readouterr().out


def test_a_request_counts_as_during_if_it_was_open_while_a_swap_ran() -> None:
    requests = [
        Asked("robot", 0.0, 0.9, 200, False),
        Asked("robot", 0.5, 1.5, 504, False),  # begins before
        Asked("robot", 1.2, 1.3, 200, True),
        Asked("robot", 1.9, 2.4, 503, False),  # ends after
        Asked("robot", 2.1, 2.15, 200, False),
    ]
    during, between = rows_of("robot", Swapped(requests, [(1.0, 2.0)]))
    names = ("requests", "reduced", "504", "other failures")
    assert [during[name] for name in names] == [3, 1, 1, 1]
    assert [between[name] for name in names] == [2, 0, 0, 0]
    assert during["worst ms"] == pytest.approx(1000)
    assert between["worst ms"] == pytest.approx(900)
    assert during["s a swap"] == pytest.approx(1.0)
    assert swap.failed({"rows": [during]})
    assert not swap.failed({"rows": [between]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"swaps": 0}, "swaps must be positive, got 0"),
        ({"deadline_ms": -1.0}, "deadline_ms must be positive"),
        ({"loads": ("crowd",)}, "loads must be among 'robot', 'robot and loop', got 'crowd'"),
        ({"model": Path("nowhere")}, "model: there is no file nowhere"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SwapBenchConfig(**changes)
