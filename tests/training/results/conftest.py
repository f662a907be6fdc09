"""Run folders of tiny policies, a maze with episodes of six steps, and episodes run and counted in this process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gymnasium.wrappers import TimeLimit
from sorl_client.episodes import make_env

import training.evaluation.rollout
from kernels.reference import ReferenceBackend
from policy import Provenance, load_policy, save_policy
from tests.policies import random_policy
from tests.training.conftest import TASK
from training.episodes import EpisodeResult, Job
from training.evaluation.rollout import EpisodeRunner
from training.results.protocol import Protocol, Seeds

STEPS = 6
SMALL = Protocol(
    num_candidates=(1, 2, 4),
    num_steps=(1, 8),
    selection=Seeds(100, 3),
    report=Seeds(200, 4),
    many_candidates=4,
    verifier_candidates=(2, 4),
    curve_cells=((1, 8), (2, 8)),
)


def save_run(folder: Path, seed: int, updates: tuple[int, ...]) -> Path:
    """A run folder of random policies, as `sorl-train` leaves it."""
    for number, done in enumerate(updates):
        config = {"discount": 0.9, "precision": "fp32"}
        origin = Provenance(environment=TASK, updates=done, seed=seed, dataset_sha256="d" * 64, config=config)
        policy = random_policy(10 * seed + number, obs_dim=2, action_dim=2, provenance=origin)
        save_policy(policy, folder / f"policy-{done}.safetensors")
    shutil.copy(folder / f"policy-{updates[-1]}.safetensors", folder / "policy.safetensors")
    (folder / "metrics.csv").write_text("update,updates_per_second\n10,2.0\n20,5.0\n")
    return folder


def short_env(task: str) -> Any:
    return TimeLimit(make_env(task).unwrapped, STEPS)


class InProcess:
    """`run_jobs` without worker processes; records the jobs."""

    def __init__(self, chunk: int = 8) -> None:
        self.jobs: list[Job] = []
        self.chunk = chunk

    def __call__(
        self, policy: Path, version: str, task: str, jobs: list[Job], processes: int, lanes: int
    ) -> Iterator[list[EpisodeResult]]:
        loaded = load_policy(policy)
        assert loaded.version == version
        runner = EpisodeRunner(ReferenceBackend(loaded), loaded.spec, task, lanes)
        for start in range(0, len(jobs), self.chunk):
            part = jobs[start : start + self.chunk]
            self.jobs += part
            yield list(runner.run(part))


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> InProcess:
    monkeypatch.setattr(training.evaluation.rollout, "make_env", short_env)
    return InProcess()
