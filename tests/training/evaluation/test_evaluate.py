"""Every cell runs on the same episodes, the report agrees with them, and lanes do not change outcomes."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sorl_client.episodes import make_env, reset

from kernels.choice import create_backend
from kernels.reference import ReferenceBackend
from policy import CheckpointError, Policy, Provenance, load_policy, save_policy
from tests.policies import random_policy
from tests.training.conftest import TASK
from training.episode_table import read_rows
from training.episodes import Job
from training.evaluation.evaluate import format_table
from training.evaluation.grid import EvaluateConfig, evaluate_policy
from training.evaluation.rollout import EpisodeRunner


@pytest.fixture(scope="module")
def policy() -> Policy:
    """Random weights, for the maze."""
    return random_policy(obs_dim=2, action_dim=2, provenance=Provenance(environment=TASK))


@pytest.fixture(scope="module")
def path(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "policy.safetensors"
    save_policy(policy, path)
    return path


def run(policy: Policy, lanes: int, jobs: list[Job]) -> dict[Job, tuple[bool, int, tuple[float, ...]]]:
    runner = EpisodeRunner(ReferenceBackend(policy), policy.spec, TASK, lanes)
    return {result.job: (result.success, result.steps, result.initial_state) for result in runner.run(jobs)}


@pytest.mark.slow
def test_the_number_of_lanes_does_not_change_outcomes(policy: Policy) -> None:
    jobs = [Job(episode, n, m) for n, m in ((1, 1), (4, 3)) for episode in (5, 6)]
    alone, together = run(policy, 1, jobs), run(policy, 3, jobs)
    assert alone.keys() == together.keys() == set(jobs)
    for job in jobs:
        assert alone[job][:2] == together[job][:2]
        env = make_env(TASK)
        assert alone[job][2] == tuple(map(float, reset(env, job.episode)))
        env.close()


@pytest.mark.slow
def test_the_report_of_a_grid_agrees_with_its_episodes(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = EvaluateConfig(
        policy=path,
        num_candidates=(1, 2),
        num_steps=(1,),
        episodes=2,
        processes=2,
        lanes=2,
        json=tmp_path / "report.json",
        csv=tmp_path / "episodes.csv",
    )
    report = evaluate_policy(config)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert [(cell["num_candidates"], cell["num_steps"], cell["episodes"]) for cell in report["cells"]] == [
        (1, 1, 2),
        (2, 1, 2),
    ]
    with (tmp_path / "episodes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["episode"] for row in rows] == ["10000", "10001"] * 2
    for cell in report["cells"]:
        mine = [row for row in rows if int(row["num_candidates"]) == cell["num_candidates"]]
        assert cell["success"] == np.mean([int(row["success"]) for row in mine])
        assert cell["low"] <= cell["success"] <= cell["high"]
        assert cell["mean_first_q"] == pytest.approx(np.mean([float(row["first_q"]) for row in mine]))
        assert cell["crashes"] == 0
    assert "95 % interval" in format_table(report)
    conditions = {name: report[name] for name in ("select", "engine", "actor_hidden", "updates", "discount")}
    assert conditions == {
        "select": "best",
        "engine": create_backend(load_policy(config.policy), "auto", "cpu").engine,
        "actor_hidden": [32, 32],
        "updates": 0,
        "discount": 0.995,  # the environment's, since this policy does not say
    }


@pytest.mark.slow
def test_a_grid_over_the_number_of_executed_actions(tmp_path: Path) -> None:
    policy, table = tmp_path / "policy.safetensors", tmp_path / "episodes.csv"
    chunks = random_policy(obs_dim=2, action_dim=2, action_horizon=4, provenance=Provenance(environment=TASK))
    save_policy(chunks, policy)
    config = EvaluateConfig(policy, num_candidates=(2,), num_steps=(1,), execute=(1, 3), episodes=2, csv=table)
    report = evaluate_policy(config)
    assert [(cell["num_candidates"], cell["num_steps"], cell["execute"]) for cell in report["cells"]] == [
        (2, 1, 1),
        (2, 1, 3),
    ]
    rows = read_rows(table)
    for cell in report["cells"]:
        mine = [row for row in rows if row.execute == cell["execute"]]
        assert [row.episode for row in mine] == [10_000, 10_001]
        assert cell["mean_calls"] == np.mean([np.ceil(row.steps / row.execute) for row in mine])
        assert cell["mean_jerk"] == pytest.approx(np.mean([row.jerk for row in mine]))
    (whole,) = evaluate_policy(replace(config, execute=None, csv=None, episodes=1))["cells"]
    assert whole["execute"] == 4
    header, *lines = format_table(report).splitlines()
    column = header.split().index("k")
    assert [line.split()[column] for line in lines] == ["1", "3"]


@pytest.mark.slow
def test_worst_candidates_have_a_lower_first_q(path: Path, tmp_path: Path) -> None:
    first = {}
    for select in ("best", "worst"):
        table = tmp_path / f"{select}.csv"
        report = evaluate_policy(
            EvaluateConfig(
                policy=path, num_candidates=(4,), num_steps=(1,), episodes=2, processes=1, select=select, csv=table
            )  # type: ignore[arg-type]
        )
        assert report["select"] == select
        rows = read_rows(table)
        assert {row.select for row in rows} == {select}
        first[select] = {row.initial_state: row.first_q for row in rows}
    assert first["best"].keys() == first["worst"].keys()
    assert all(first["worst"][state] < q for state, q in first["best"].items())


def test_errors_name_the_fault(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--num-steps must be at most 8"):
        evaluate_policy(EvaluateConfig(policy=path, num_steps=(9,)))
    with pytest.raises(ValueError, match="--execute must be at most 1, the policy's action_horizon"):
        evaluate_policy(EvaluateConfig(policy=path, execute=(1, 2)))
    with pytest.raises(ValueError, match="--delay must be at most 0, the policy's action_horizon minus 1"):
        evaluate_policy(EvaluateConfig(policy=path, delay=1))
    with pytest.raises(ValueError, match=r"--coherence must be from 0 to 1, got 1\.5"):
        EvaluateConfig(policy=path, coherence=1.5)
    with pytest.raises(ValueError, match="--execute must be at least 1, got 0"):
        EvaluateConfig(policy=path, execute=(0,))
    with pytest.raises(CheckpointError, match="cannot be read"):
        evaluate_policy(EvaluateConfig(policy=tmp_path / "nothing.safetensors"))
    nameless = tmp_path / "nameless.safetensors"
    save_policy(random_policy(), nameless)
    with pytest.raises(ValueError, match="pass --task"):
        evaluate_policy(EvaluateConfig(policy=nameless))
    with pytest.raises(ValueError, match=r"^--task: OGBench has no task 'my-robot'"):
        evaluate_policy(EvaluateConfig(path, task="my-robot"))
    with pytest.raises(ValueError, match="--episodes must be from 1 to 1048576"):
        replace(EvaluateConfig(policy=path), episodes=0)
