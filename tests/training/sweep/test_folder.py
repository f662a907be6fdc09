"""A run is read back from its folder, and a result is valid for its own run only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.conftest import point_maze_rows, write
from training.files import sha256_of, write_json
from training.sweep.errors import SweepError
from training.sweep.folder import WAITING, describe_state, locked, read_request, read_result, write_request
from training.sweep.plan import Run, Sweep, plan


@pytest.fixture
def run(sweep: Sweep, tmp_path: Path) -> Run:
    return plan(sweep, tmp_path, tmp_path, cpus=1)[2]


def test_a_request_is_read_back(run: Run) -> None:
    write_json(run.folder / "error.json", {})
    write_request(run)
    assert read_request(run.folder) == run
    assert not (run.folder / "error.json").exists()


def test_a_result_is_valid_for_its_settings_and_data_only(run: Run, tmp_path: Path) -> None:
    assert read_result(run) is None
    result = {"digest": run.digest(), "dataset_sha256": sha256_of(run.dataset)}
    write_json(run.folder / "result.json", result)
    assert read_result(run) == result
    assert read_result(replace(run, config=replace(run.config, updates=7))) is None
    other = write(tmp_path / "other.npz", point_maze_rows(seed=1))
    assert read_result(replace(run, config=replace(run.config, dataset=other))) is None


def test_the_state_of_a_run_in_one_line(run: Run) -> None:
    assert describe_state(run) == WAITING
    running = {"phase": "training", "host": "here", "pid": 1}
    write_json(run.folder / "running.json", running)
    assert describe_state(run) == "training on here: 0 of 6 updates, 0.0 updates/s"
    half_written = "update,q_mean,updates_per_second\n2,0.1,20.5\n4,0.1,30.55\n6,"
    (run.folder / "metrics.csv").write_text(half_written)
    assert describe_state(run) == "training on here: 4 of 6 updates, 30.6 updates/s"
    write_json(run.folder / "running.json", {**running, "phase": "evaluating"})
    assert describe_state(run) == "evaluating on here"


def test_a_lock_admits_one_process_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "out" / ".lock"
    refused = pytest.raises(SweepError, match="another process")
    with locked(lock, wait=False), refused, locked(lock, wait=False):
        pass
    with locked(lock, wait=False):
        pass
