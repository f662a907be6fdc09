"""`sorl-bench hostile`: a real server with small numbers of hostile connections, and the table's rows."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench import hostile
from bench.hostile import HostileBenchConfig, Measured, row_of
from policy import save_policy
from tests.policies import random_policy


@pytest.mark.slow
def test_a_real_server_answers_beside_hostile_connections(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Websockets stay open, who sends too slowly is told so, and everybody else is answered."""
    model, path = tmp_path / "small.safetensors", tmp_path / "hostile.json"
    save_policy(random_policy(), model)
    numbers = ["--websockets", "50", "--slow", "20", "--request-seconds", "0.5", "--rounds", "1", "--seconds", "0.5"]
    assert hostile.main(["--model", str(model), *numbers, "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    rows = report["rows"]
    assert [row["beside"] for row in report["cpu"]] == ["50 idle websockets", "20 slow headers"]
    assert all(0 <= row["CPU % alone"] < 100 and 0 <= row["CPU % beside"] < 100 for row in report["cpu"])
    assert [(row["beside"], row["client"]) for row in rows] == [
        (beside, client) for beside in ("50 idle websockets", "20 slow headers") for client in ("robot", "closed loop")
    ]
    assert all(row["failed"] == 0 and row["requests"] > 0 for row in rows)
    assert {row["hostile"] for row in rows[:2]} == {"50 open"}
    assert all(" 408, " in row["hostile"] and "20 open" in row["hostile"] for row in rows[2:])
    assert "50 idle websockets" in capsys.readouterr().out


def test_a_row_compares_the_median_p99_of_rounds_with_that_alone() -> None:
    alone = [Measured([1.0] * 50 + [p99] * 50) for p99 in (2.0, 1.5, 9.0)]
    beside = [Measured([1.0] * 50 + [p99] * 50, failed=int(p99)) for p99 in (3.5, 0.5, 99.0)]
    row = row_of("slow headers", 2000, "robot", alone, beside, Counter({"408": 3, "open": 2000}))
    assert (row["beside"], row["p99 alone ms"], row["p99 beside ms"]) == ("2,000 slow headers", 2.0, 3.5)
    assert (row["ratio"], row["met"], row["failed"], row["hostile"]) == (1.75, "no", 102, "3 408, 2,000 open")
    assert hostile.failed({"rows": [row]})
    assert not hostile.failed({"rows": [{**row, "failed": 0}]})
    assert hostile.failed({"rows": [{**row, "failed": 0, "hostile": "1 closed, 2 open"}]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "rounds must be positive, got 0"),
        ({"slow": -1}, "slow must be positive, got -1"),
        ({"model": Path("nowhere")}, "model: there is no file nowhere"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HostileBenchConfig(**changes)
