"""The table's figures against independent calculations."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from training.sweep.plan import Evaluation, Run, Sweep, plan
from training.sweep.table import Row, as_json, estimate, format_table, make_rows, write_csv

SWEEP = Sweep(
    tasks=("a", "b"),
    seeds=(0, 1, 2),
    grid={"q_agg": ("min", "mean")},
    evaluations=(Evaluation((1, 2), (1, 4), 50, 10_000), Evaluation((2,), (3,), 200, 20_000)),
)
RUNS = plan(SWEEP, Path("/out"), Path("/data"), cpus=1)


def result(run: Run, success: float) -> dict[str, Any]:
    """A result.json with different rates in each cell."""
    return {
        "evaluations": [
            {
                "first_seed": evaluation.first_seed,
                "cells": [
                    {"num_candidates": n, "num_steps": m, "success": success + 0.1 * n + 0.02 * m}
                    for _, _, n, m in evaluation.cells()
                ],
            }
            for evaluation in reversed(run.evaluations)
        ]
    }


@pytest.fixture
def rows() -> list[Row]:
    """All but two runs of a/mean and all of b/min are finished."""
    missing = {"a/q_agg=mean/seed-0", "a/q_agg=mean/seed-2", *(f"b/q_agg=min/seed-{seed}" for seed in range(3))}
    return make_rows(RUNS, {run.name: result(run, 0.2 * run.config.seed) for run in RUNS if run.name not in missing})


def test_rows_are_in_the_plans_order(rows: list[Row]) -> None:
    cells = [(10_000, 1, 1), (10_000, 1, 4), (10_000, 2, 1), (10_000, 2, 4), (20_000, 2, 3)]
    expected = [(task, f"q_agg={agg}", *cell) for task in "ab" for agg in ("min", "mean") for cell in cells]
    assert [(row.task, row.setting, row.first_seed, row.num_candidates, row.num_steps) for row in rows] == expected


def test_a_row_summarises_its_runs_at_its_cell(rows: list[Row]) -> None:
    row = rows[3]
    rates = np.array([0.0, 0.2, 0.4]) + 0.2 + 0.08
    assert (row.runs, row.planned, row.episodes, row.seeds) == (3, 3, 50, (0, 1, 2))
    assert row.successes == pytest.approx(rates)
    assert (row.success, row.least, row.greatest) == pytest.approx((rates.mean(), rates.min(), rates.max()))
    interval = stats.ttest_1samp(rates, 0).confidence_interval(0.95)
    assert (row.low, row.high) == pytest.approx((max(0, interval.low), min(1, interval.high)))


def test_one_seed_has_wilsons_interval(rows: list[Row]) -> None:
    row = rows[9]
    wilson = stats.binomtest(round(0.46 * 200), 200).proportion_ci(method="wilson")
    assert (row.runs, row.planned, row.seeds) == (1, 3, (1,))
    assert (row.success, row.low, row.high) == pytest.approx((0.46, wilson.low, wilson.high))


def test_equal_seeds_do_not_make_an_empty_interval() -> None:
    wilson = stats.binomtest(0, 150).proportion_ci(method="wilson")
    assert estimate([0.0, 0.0, 0.0], 50) == pytest.approx((0.0, 0.0, wilson.high))
    assert all(map(math.isnan, estimate([], 50)))


def test_text_csv_and_json_agree(rows: list[Row], tmp_path: Path) -> None:
    text = format_table(rows, width=60)
    blocks = text.split("\n\n")
    assert [block.splitlines()[0] for block in blocks[:4]] == [
        f"{task}, {episodes} episodes a run, seeds from {seed}"
        for task in "ab"
        for episodes, seed in ((50, 10_000), (200, 20_000))
    ]
    lines = blocks[0].splitlines()
    assert lines[1].split() == ["setting", "seeds", "N=1", "M=1", "N=1", "M=4"]
    assert lines[2].split()[:2] == ["q_agg=min", "3/3"]
    assert lines[2].endswith(f"{100 * rows[1].success:.0f} [{100 * rows[1].low:.0f}, {100 * rows[1].high:.0f}]")
    assert lines[4].split() == ["setting", "seeds", "N=2", "M=1", "N=2", "M=4"]
    assert max(map(len, lines)) <= 60
    assert blocks[3].splitlines()[2].split() == ["q_agg=min", "0/3", "-"]

    write_csv(tmp_path / "table.csv", Row, rows)
    with (tmp_path / "table.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    values = json.loads(json.dumps([as_json(row) for row in rows], allow_nan=False))
    assert len(written) == len(values) == len(rows)
    for line, value, row in zip(written, values, rows, strict=True):
        assert line["setting"] == value["setting"] == row.setting
        assert value["successes"] == list(row.successes)
        assert line["success"] == ("" if not row.runs else str(value["success"]))
        assert line["seeds"] == " ".join(map(str, row.seeds))
    assert values[10]["success"] is None
