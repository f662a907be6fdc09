"""The checkpoints of run folders and files, and their labels."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from policy import CheckpointError, load_policy, save_policy
from tests.policies import random_policy
from tests.training.conftest import TASK
from tests.training.results.conftest import SMALL, InProcess, save_run
from training.results.errors import ResultsError
from training.results.experiments import TaskExperiments
from training.results.runs import find_runs


def test_checkpoints_are_ordered_and_the_last_is_counted_once(tmp_path: Path) -> None:
    (run,) = find_runs((save_run(tmp_path / f"{TASK}-3", 3, (5, 10, 100)),))
    assert run.label == "seed 3"
    assert run.task == TASK
    assert [checkpoint.updates for checkpoint in run.checkpoints] == [5, 10, 100]
    assert run.last.path.name == "policy.safetensors"
    assert run.last.facts["discount"] == 0.9


def test_training_time_is_read_from_the_log(tmp_path: Path) -> None:
    (run,) = find_runs((save_run(tmp_path / "big", 0, (5, 10, 20)),))
    assert run.label == "big"
    # Ten updates at 2 per second, then ten at 5 per second.
    assert [checkpoint.facts["training_seconds"] for checkpoint in run.checkpoints] == [None, 5.0, 7.0]


def test_training_time_is_unknown_where_the_log_has_only_the_last_part_of_it(tmp_path: Path) -> None:
    path = save_run(tmp_path / "second", 0, (10, 20)) / "policy-20.safetensors"
    policy = load_policy(path)
    config = policy.spec.provenance.config | {"start_from": {"version": "0" * 64, "updates": 10}}
    policy.spec = replace(policy.spec, provenance=replace(policy.spec.provenance, config=config))
    save_policy(policy, path)
    shutil.copy(path, path.parent / "policy.safetensors")
    (run,) = find_runs((path.parent,))
    assert [checkpoint.facts["training_seconds"] for checkpoint in run.checkpoints] == [5.0, None]


def test_a_file_is_a_run_of_one_checkpoint(tmp_path: Path) -> None:
    save_run(tmp_path / "run", 0, (10,))
    shutil.copy(tmp_path / "run" / "policy.safetensors", tmp_path / "cube.safetensors")
    (run,) = find_runs((tmp_path / "cube.safetensors",))
    assert (run.label, len(run.checkpoints)) == ("cube", 1)
    assert run.last.facts["training_seconds"] is None


def test_equal_names_get_different_labels(tmp_path: Path) -> None:
    runs = find_runs((save_run(tmp_path / "a" / "run", 0, (10,)), save_run(tmp_path / "b" / "run", 1, (10,))))
    assert [run.label for run in runs] == [f"run {run.last.version[:8]}" for run in runs]
    assert runs[0].label != runs[1].label


def test_errors_name_what_cannot_be_measured(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResultsError, match=r"empty has no policy\.safetensors"):
        find_runs((tmp_path / "empty",))
    save_policy(random_policy(), tmp_path / "nameless.safetensors")
    with pytest.raises(ResultsError, match="does not name its training environment"):
        find_runs((tmp_path / "nameless.safetensors",))


def test_a_replaced_policy_is_not_measured_as_the_old_one(tmp_path: Path, in_process: InProcess) -> None:
    (run,) = find_runs((save_run(tmp_path / "run", 0, (10,)),))
    experiments = TaskExperiments(tmp_path / "out", SMALL, run=in_process)
    experiments.record(run.last)
    save_policy(random_policy(9, obs_dim=2, action_dim=2), run.last.path)
    with pytest.raises(CheckpointError, match="was replaced meanwhile"):
        experiments.measure(run.last, "run", ("latency",))
    with pytest.raises(CheckpointError, match="was replaced meanwhile"):
        experiments.measure(run.last, "run", ("shortcut",))
