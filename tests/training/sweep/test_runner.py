"""On a local Ray of two CPUs: failed runs are reported, killed ones tried again, finished ones skipped."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from policy import load_policy
from training.sweep.cli import SweepConfig, report
from training.sweep.cluster import require_resources
from training.sweep.errors import SweepError
from training.sweep.folder import read_result
from training.sweep.plan import Run, Sweep, plan
from training.sweep.runner import Outcome, Resources, run_all

pytestmark = pytest.mark.slow
FINISHED, SKIPPED = Outcome("finished"), Outcome("skipped")


def planned(sweep: Sweep, out: Path) -> list[Run]:
    return plan(sweep, out, out, cpus=1)


def logs(runs: list[Run]) -> list[str]:
    return [(run.folder / "log.txt").read_text() for run in runs]


def test_a_run_that_raises_does_not_stop_the_others(
    sweep: Sweep, local_ray: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = replace(sweep, grid={"learning_rate": (1e-3, 1e30)}, settings=sweep.settings | {"updates": 60})
    runs = planned(sweep, tmp_path)
    good, diverging = runs[:2], runs[2:]
    outcomes = run_all(local_ray, runs, Resources())
    assert [outcomes[run.name] for run in good] == [FINISHED] * 2
    for run in diverging:
        assert outcomes[run.name].state == "failed"
        assert outcomes[run.name].error.startswith("FloatingPointError: ")
        assert "lower --learning-rate" in outcomes[run.name].error
        assert read_result(run) is None
    for run in good:
        assert load_policy(run.folder / "policy.safetensors").spec.provenance.updates == 60
        assert not (run.folder / "running.json").exists()

    before = logs(good)
    again = run_all(local_ray, good, Resources())
    assert list(again.values()) == [SKIPPED] * 2
    assert logs(good) == before

    report(SweepConfig(out=tmp_path), runs, outcomes)
    printed = capsys.readouterr().out
    assert "2 failed, 2 finished" in printed
    assert f"failed: {diverging[0].name}: FloatingPointError" in printed
    check_summary(tmp_path, good)


def check_summary(out: Path, good: list[Run]) -> None:
    """summary.json's means against the counts in the episode tables."""
    summary = json.loads((out / "summary.json").read_text())
    assert [run["state"] for run in summary["runs"]] == ["finished", "finished", "failed", "failed"]
    by_hand: dict[int, list[int]] = {1: [], 2: []}
    for run in good:
        (path,) = run.folder.glob("evaluation-*.csv")
        with path.open(newline="") as file:
            for episode in csv.DictReader(file):
                by_hand[int(episode["num_candidates"])].append(int(episode["success"]))
    rows = [row for row in summary["rows"] if row["runs"]]
    assert [row["num_candidates"] for row in rows] == [1, 2]
    for row in rows:
        assert len(by_hand[row["num_candidates"]]) == 2
        assert row["success"] == sum(by_hand[row["num_candidates"]]) / 2
    assert [row["success"] for row in summary["rows"]][2:] == [None, None]


@pytest.mark.parametrize("victim", ["child", "worker"])
def test_a_killed_run_is_tried_again(sweep: Sweep, local_ray: Any, tmp_path: Path, victim: str) -> None:
    runs = planned(replace(sweep, grid={}), tmp_path)
    for run in runs:
        run.folder.mkdir(parents=True)
    (runs[0].folder / "kill").write_text(victim)
    outcomes = run_all(local_ray, runs, Resources(retries=1))
    assert [outcomes[run.name] for run in runs] == [FINISHED] * 2
    assert not (runs[0].folder / "kill").exists()


@pytest.mark.parametrize("victim", ["child", "worker"])
def test_without_retries_a_killed_run_is_reported(sweep: Sweep, local_ray: Any, tmp_path: Path, victim: str) -> None:
    (run,) = planned(replace(sweep, grid={}, seeds=(0,)), tmp_path)
    run.folder.mkdir(parents=True)
    (run.folder / "kill").write_text(victim)
    outcome = run_all(local_ray, [run], Resources(retries=0))[run.name]
    assert outcome.state == "failed"
    assert ("killed by SIGKILL" if victim == "child" else "the Ray worker died") in outcome.error


def test_more_updates_and_cells_continue_a_finished_run(sweep: Sweep, local_ray: Any, tmp_path: Path) -> None:
    sweep = replace(sweep, grid={}, seeds=(0,))
    (run,) = planned(sweep, tmp_path)
    assert run_all(local_ray, [run], Resources())[run.name] == FINISHED

    cells = (*sweep.evaluations, replace(sweep.evaluations[0], first_seed=20_000))
    (more_cells,) = planned(replace(sweep, evaluations=cells), tmp_path)
    assert run_all(local_ray, [more_cells], Resources())[run.name] == FINISHED
    assert logs([run])[0].count("| 2/2 [") == 2, "the first evaluation was run again"
    result = read_result(more_cells)
    assert result is not None
    assert [item["first_seed"] for item in result["evaluations"]] == [10_000, 20_000]

    (longer,) = planned(replace(sweep, settings=sweep.settings | {"updates": 9}), tmp_path)
    assert run_all(local_ray, [longer], Resources())[run.name] == FINISHED
    assert "from update 6" in logs([run])[0]
    outcome = run_all(local_ray, [run], Resources())[run.name]
    assert outcome.state == "failed"
    assert "has 9 updates, more than 6" in outcome.error


def test_resources_that_ray_does_not_have_are_an_error(local_ray: Any) -> None:
    require_resources(local_ray, cpus=2, gpus=0)
    with pytest.raises(SweepError, match="a run needs 3 CPU, and Ray has 2"):
        require_resources(local_ray, cpus=3, gpus=0)
