"""Comparisons of variants against independent calculations, and the page that shows them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from training.episode_table import EpisodeRow, EpisodeTableError, write_rows
from training.reporting.statistics import Paired
from training.sweep.comparison import compare, estimate, format_comparisons
from training.sweep.page import write_page
from training.sweep.plan import Evaluation, Run, Sweep, plan
from training.sweep.table import make_rows

SWEEP = Sweep(
    tasks=("maze-navigate-singletask-v0",),
    seeds=(0, 1, 2),
    variants=({"shared_optimizer": True}, {"q_loss_coef": 0.0}),
    evaluations=(Evaluation((1, 16), (1,), 40, 500), Evaluation((1,), (2,), 10, 900)),
)


def outcome(setting: str, seed: int, n: int, episode: int) -> int:
    """Success of an episode. At each seed, `shared_optimizer` solves what the plain settings solve, and more."""
    draw = (episode * 37 + n * 11 + seed * 5) % 40
    return int(draw < {"default": 10, "shared_optimizer=true": 20 + 2 * seed, "q_loss_coef=0": 10}[setting])


def leave_results(run: Run) -> dict[str, object]:
    """Write a finished run's episodes; returns its result.json."""
    for evaluation in run.evaluations:
        path = evaluation.config(run.folder / "policy.safetensors", 1).csv
        assert path is not None
        rows = [
            EpisodeRow(n, m, e, outcome(run.setting, run.config.seed, n, e), 1, 0.0, "best", 0.0, 0.0, 0.0, 0, 0.1, "")
            for first, episodes, n, m in evaluation.cells()
            for e in range(first, first + episodes)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_rows(path, rows)
    reports = [
        {
            "first_seed": evaluation.first_seed,
            "cells": [
                {
                    "num_candidates": n,
                    "num_steps": m,
                    "success": np.mean(
                        [outcome(run.setting, run.config.seed, n, e) for e in range(first, first + episodes)]
                    ).item(),
                }
                for first, episodes, n, m in evaluation.cells()
            ],
        }
        for evaluation in run.evaluations
    ]
    return {"evaluations": reports, "dataset_sha256": "d" * 64, "code_revision": "c" * 12}


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    return plan(SWEEP, tmp_path / "out", tmp_path, cpus=1)


def test_a_comparison_is_paired_by_seed_and_episode(runs: list[Run]) -> None:
    for run in runs:
        leave_results(run)
    rows = compare(runs, {run.name for run in runs})
    assert [(row.setting, row.first_seed, row.num_candidates) for row in rows] == [
        (setting, first, n)
        for setting in ("shared_optimizer=true", "q_loss_coef=0")
        for first, n in ((500, 1), (500, 16), (900, 1))
    ]
    sides = [
        [[outcome(name, seed, 16, e) for e in range(500, 540)] for seed in range(3)]
        for name in ("shared_optimizer=true", "default")
    ]
    rates = np.mean(sides, axis=2)
    interval = stats.ttest_rel(*rates).confidence_interval(0.95)
    pooled = Paired.of(*(np.concatenate(side).tolist() for side in sides)).interval
    row = rows[1]
    assert (row.success, row.plain) == pytest.approx(tuple(rates.mean(axis=1)))
    assert row.differences == pytest.approx(tuple(rates[0] - rates[1]))
    assert row.low == pytest.approx(min(interval.low, pooled[0]))
    assert row.high == pytest.approx(max(interval.high, pooled[1]))
    assert (row.seeds, row.verdict) == ((0, 1, 2), "better")
    same = rows[4]
    assert (same.difference, same.verdict) == (0.0, "not separated")
    assert same.low < 0.0 < same.high  # three equal seeds do not give certainty


def test_scattered_seeds_are_not_separated() -> None:
    one, none = [1] * 50, [0] * 50
    mean, low, high = estimate([(one, none), (one, none), (none, none)])
    assert mean == pytest.approx(2 / 3)
    assert (low, high) == (pytest.approx(2 / 3 - 4.302653 / 3, abs=1e-5), 1.0)
    assert estimate([(one, none)])[1] == pytest.approx(Paired.of(one, none).interval[0])
    assert all(map(math.isnan, estimate([])))


def test_only_finished_pairs_count(runs: list[Run]) -> None:
    for run in runs:
        leave_results(run)
    finished = {run.name for run in runs if (run.setting, run.config.seed) != ("default", 1)}
    row = compare(runs, finished)[0]
    assert row.seeds == (0, 2)
    unpaired = compare(runs, {run.name for run in runs if run.setting != "default"})[0]
    assert (unpaired.seeds, unpaired.verdict) == ((), "not run")
    assert math.isnan(unpaired.difference)
    assert "not run" in format_comparisons([unpaired])


def test_without_plain_settings_there_is_no_comparison(tmp_path: Path) -> None:
    grid = plan(replace(SWEEP, variants=(), grid={"q_agg": ("min", "mean")}), tmp_path, tmp_path, cpus=1)
    assert compare(grid, {run.name for run in grid}) == []


def test_errors_name_damaged_episodes(runs: list[Run]) -> None:
    for run in runs:
        leave_results(run)
    broken = next(runs[0].folder.glob("evaluation-500-*.csv"))
    broken.write_text("nothing\n")
    with pytest.raises(EpisodeTableError, match=broken.name):
        compare(runs, {run.name for run in runs})


def test_the_page_lists_finished_and_missing_runs(runs: list[Run], tmp_path: Path) -> None:
    results = {run.name: leave_results(run) for run in runs if run.config.seed < 2}
    page = tmp_path / "three-switches.md"
    write_page(page, runs, results, make_rows(runs, results), compare(runs, set(results)))
    text = page.read_text()
    assert text.startswith("# Three switches\n")
    assert "6 of 9 runs" in text
    assert "Varied: q_loss_coef, shared_optimizer" in text
    assert "| shared_optimizer=true | 2 of 3 |" in text
    assert text.count("seed-2\n") == 3
    line = next(line for line in text.splitlines() if "shared_optimizer=true | (16, 1) from 500" in line)
    assert line.split("|")[4].strip() == "+25, +30"
