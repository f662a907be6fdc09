"""The sweep that flags and files describe, and what is refused before anything starts."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import tyro

from tests.training.conftest import TASK
from training.data.dataset import DatasetError
from training.files import sha256_of, write_json
from training.sweep.cli import SweepConfig, describe, main, make_plan, sweep
from training.sweep.errors import RayUnavailable, SettingError, SweepError, UnknownName
from training.sweep.folder import locked
from training.sweep.plan import Evaluation, Sweep

FILE = f"""
tasks = ["{TASK}"]
seeds = [0, 1]
updates = 10
[settings]
batch_size = 8
[grid]
tau = [0.1, 0.2]
[[evaluate]]
episodes = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "maze.toml"
    path.write_text(FILE)
    return path


def parse(*arguments: object) -> SweepConfig:
    return tyro.cli(SweepConfig, args=[str(argument) for argument in arguments])


def test_flags_alone_describe_a_sweep() -> None:
    config = parse(
        *("--tasks", "a", "b", "--seeds", 3, 4, "--updates", 7, "--set", "hidden=[8,8]", "normaliser=standardise"),
        *("--grid", "q_agg=mean,min", "tau=0.1,1", "--num-candidates", 1, 2, "--episodes", 5),
        *("--first-seeds", 100, 200),
    )
    assert describe(config) == Sweep(
        tasks=("a", "b"),
        seeds=(3, 4),
        settings={"hidden": (8, 8), "normaliser": "standardise", "updates": 7},
        grid={"q_agg": ("mean", "min"), "tau": (0.1, 1.0)},
        evaluations=(
            Evaluation(num_candidates=(1, 2), episodes=5, first_seed=100),
            Evaluation(num_candidates=(1, 2), episodes=5, first_seed=200),
        ),
    )


def test_flags_extend_and_override_the_file(file: Path) -> None:
    assert describe(parse(file)).evaluations == (Evaluation(episodes=3),)
    assert parse(file).folder() == Path("runs/maze").absolute()
    sweep = describe(parse(file, "--seeds", 5, "--set", "batch_size=9", "--grid", "q_agg=min", "--num-steps", 1))
    assert sweep.seeds == (5,)
    assert sweep.settings == {"batch_size": 9, "updates": 10}
    assert sweep.grid == {"tau": (0.1, 0.2), "q_agg": ("min",)}
    assert sweep.evaluations == (Evaluation(num_steps=(1,)),)


def test_runs_with_gpus_train_on_cuda(file: Path) -> None:
    assert {run.config.device for run in make_plan(parse(file))} == {"cpu"}
    assert {run.config.device for run in make_plan(parse(file, "--gpus-per-run", 0.5))} == {"cuda"}
    with pytest.raises(SettingError, match="gpus-per-run"):
        make_plan(parse(file, "--set", "device=cuda"))


def test_errors_name_the_fault(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean batch_size"):
        describe(parse(file, "--set", "batchsize=1"))
    with pytest.raises(SettingError, match="several belong to --grid"):
        describe(parse(file, "--set", "tau=1,2"))
    with pytest.raises(SettingError, match="--retries must be from 0 to"):
        SweepConfig(retries=-1)
    with pytest.raises(DatasetError, match="does not exist"):
        sweep(SweepConfig(file, out=tmp_path / "out", data_dir=tmp_path, dry_run=True))
    assert not (tmp_path / "out").exists()


def test_a_dry_run_prints_runs_and_folders(
    file: Path, dataset_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    (out / TASK / "tau=0.1" / "seed-1").mkdir(parents=True)
    (out / TASK / "tau=0.1" / "seed-1" / "resume.pt").touch()
    command = ["sorl-sweep", str(file), "--out", str(out), "--set", f"dataset={dataset_path}", "--dry-run"]
    monkeypatch.setattr(sys, "argv", command)
    main()
    folders = [out / TASK / f"tau={tau}" / f"seed-{seed}" for tau in (0.1, 0.2) for seed in (0, 1)]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:-1]] == [
        [state, str(folder)] for state, folder in zip(("new", "begun", "new", "new"), folders, strict=True)
    ]
    assert lines[-1] == "4 runs"


def test_without_ray_the_error_names_the_extra(
    file: Path, dataset_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    config = SweepConfig(file, out=tmp_path / "out", set=(f"dataset={dataset_path}",))
    with pytest.raises(RayUnavailable, match=r"pip install 'sorl-serve\[scale\]'"):
        sweep(config)
    assert not (tmp_path / "out").exists()


def test_two_sweeps_do_not_share_a_folder(
    file: Path, dataset_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))  # it is not used
    config = SweepConfig(file, out=tmp_path, set=(f"dataset={dataset_path}",))
    with locked(tmp_path / ".lock", wait=False), pytest.raises(SweepError, match="another process"):
        sweep(config)


def test_a_finished_sweep_needs_no_ray(
    file: Path, dataset_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = SweepConfig(file, out=tmp_path, set=(f"dataset={dataset_path}",), num_candidates=(1,), num_steps=(1,))
    cell = {"num_candidates": 1, "num_steps": 1, "success": 0.5}
    for run in make_plan(config):
        result = {"digest": run.digest(), "dataset_sha256": sha256_of(dataset_path)}
        write_json(run.folder / "result.json", result | {"evaluations": [{"first_seed": 10_000, "cells": [cell]}]})
    monkeypatch.setitem(sys.modules, "ray", None)
    assert {outcome.state for outcome in sweep(config).values()} == {"skipped"}
    assert "tau=0.1   2/2     50 [40, 60]" in capsys.readouterr().out
    assert (tmp_path / "summary.csv").exists()
