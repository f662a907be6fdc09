"""Episodes of many compute budgets at once, in process: lanes of environments share one batch per control tick.

Each job is one episode under one (N, M). A worker steps `lanes` environments in lockstep; all that need an action at
a tick form one ragged batch, whatever their budgets. A lane whose episode ends takes the next job.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from sorl_client.episodes import EpisodeSeeds, SeedPolicy, make_env, reset

from kernels.backend import Backend, NonFiniteOutput, SampleBatch
from policy import PolicySpec


@dataclass(frozen=True)
class Job:
    """One episode to run."""

    episode: int
    num_candidates: int
    num_steps: int
    seed_policy: SeedPolicy = "step"
    temperature: float = 1.0


@dataclass(frozen=True)
class EpisodeResult:
    """What came of a job."""

    job: Job
    success: bool
    steps: int
    first_q: float
    """Value of the first chosen action."""
    initial_state: tuple[float, ...]
    """The first observation: two episodes of one cell must not share it."""


@dataclass
class _Lane:
    env: Any
    job: Job
    seeds: EpisodeSeeds
    observation: np.ndarray
    initial_state: tuple[float, ...]
    step: int = 0
    first_q: float = 0.0


class Roller:
    """Runs jobs with one backend and a fixed set of environments, which it keeps between calls."""

    def __init__(self, backend: Backend, spec: PolicySpec, task: str, lanes: int) -> None:
        self._backend = backend
        self._spec = spec
        self._envs = [make_env(task) for _ in range(lanes)]

    def run(self, jobs: list[Job]) -> Iterator[EpisodeResult]:
        """Results in the order in which episodes end.

        Raises:
            NonFiniteOutput: the policy produced a NaN.
        """
        waiting = iter(jobs)
        lanes = [lane for env in self._envs if (lane := self._start(env, waiting)) is not None]
        while lanes:
            actions = self._act(lanes)
            going: list[_Lane] = []
            for lane, action in zip(lanes, actions, strict=True):
                observation, _, terminated, truncated, info = lane.env.step(action)
                lane.step += 1
                lane.observation = np.asarray(observation, dtype=np.float32)
                if not (terminated or truncated):
                    going.append(lane)
                    continue
                yield EpisodeResult(lane.job, bool(info["success"]), lane.step, lane.first_q, lane.initial_state)
                following = self._start(lane.env, waiting)
                if following is not None:
                    going.append(following)
            lanes = going

    def _start(self, env: Any, waiting: Iterator[Job]) -> _Lane | None:
        job = next(waiting, None)
        if job is None:
            return None
        observation = reset(env, job.episode)
        seeds = EpisodeSeeds(job.episode, job.seed_policy)
        return _Lane(env, job, seeds, observation, tuple(map(float, observation)))

    def _act(self, lanes: list[_Lane]) -> np.ndarray:
        batch = SampleBatch.of(
            np.stack([lane.observation for lane in lanes]),
            num_candidates=[lane.job.num_candidates for lane in lanes],
            num_steps=[lane.job.num_steps for lane in lanes],
            seed=[lane.seeds.action(lane.step) for lane in lanes],
            temperature=[lane.job.temperature for lane in lanes],
        )
        result = self._backend.sample_and_score(batch)
        if result.nonfinite.any():
            lane = lanes[int(np.argmax(result.nonfinite))]
            raise NonFiniteOutput(f"episode {lane.job.episode}, step {lane.step}: the policy produced a NaN")
        for lane, q in zip(lanes, result.q, strict=True):
            if lane.step == 0:
                lane.first_q = float(q)
        actions: np.ndarray = self._spec.action_to_environment(result.action)
        return actions
