"""`sorl-bench model`: its arithmetic against sums by hand, and the configured thresholds against its predictions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.model import CARDS, PAPER, POINTS, Network, floor_seconds, main, thresholds
from kernels.gpu.configuration import LARGE_ROWS, SMALL_ROWS, SPLIT_ROWS


def test_flop_counts_every_product_once() -> None:
    network = Network(obs_dim=3, action_dim=2, width=10, layers=2, members=2)
    actor = 2 * (2 + 2) * 10 + 2 * 10 * 10 + 2 * 10 * 2  # (x, t, d), hidden, output
    critic = 2 * (2 + 1) * 10 + 2 * 10 * 10 + 2 * 10  # (a, k), hidden, output
    share = 2 * 3 * 10 * 3
    assert network.flop(requests=5, rows=40, steps=4) == 40 * (4 * actor + 2 * critic) + 5 * share


def test_the_floor_is_work_over_the_peak() -> None:
    h100 = CARDS["H100"]
    assert h100.flops * h100.clock * h100.sms == pytest.approx(949e12, rel=0.01)  # the data sheet says 989 at boost
    assert floor_seconds(h100, PAPER, 256, 256 * 64, 8) == pytest.approx(274e-6, rel=0.01)


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_thresholds_are_those_of_the_model(steps: int) -> None:
    found = thresholds(CARDS["H100"], PAPER, steps)
    assert 2 * found["64x128 from"] == SMALL_ROWS  # as measured: on a GPU 64x128 fills its pipeline more slowly
    assert found["128x128 from"] == LARGE_ROWS
    assert found["split up to"] == SPLIT_ROWS


@pytest.mark.parametrize("card", sorted(CARDS))
def test_the_table_has_a_row_a_point(card: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--card", card, "--json", str(tmp_path / "model.json")]) == 0
    table = json.loads((tmp_path / "model.json").read_text())["table"]
    assert [row["R, N, M"] for row in table] == [", ".join(map(str, point)) for point in POINTS]
    # 1.3: the thresholds are for a GPU with 132 SMs. With an A100's 108, the small tile takes a second wave at 2,048
    # rows.
    assert all(row["floor us"] < row["fused fastest us"] <= 1.3 * row["eager us"] for row in table)
    assert "64x128" in capsys.readouterr().out
