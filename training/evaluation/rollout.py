"""`EpisodeRunner`: episodes of many compute budgets at once, in process.

A job is one episode under one (N, M). The runner steps `lanes` environments in lockstep, one action each a control
tick. The requests of a tick form one ragged batch, whatever their budgets. A policy of chunks is asked again once the
first k of its h actions are executed. A lane whose episode ends takes the next job.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sorl_client.episodes import EpisodeSeeds, control_hz, make_env, reset
from sorl_client.statistics import jerk

from kernels.backend import Backend, SampleBatch
from kernels.commitment import Commitment, network_input
from policy import PolicySpec
from training.episodes import EpisodeResult, Job
from training.evaluation.facts import discount_of
from training.evaluation.selection import choose

log = logging.getLogger(__name__)


@dataclass
class _Lane:
    env: Any
    job: Job
    seeds: EpisodeSeeds
    observation: np.ndarray
    initial_state: tuple[float, ...]
    execute: int  # actions of each reply
    planned: list[np.ndarray] = field(default_factory=list)  # what is left of them, each (action_dim,)
    actions: list[np.ndarray] = field(default_factory=list)  # executed so far
    step: int = 0
    first_q: float = 0.0
    total_q: float = 0.0
    rewards: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def result(self, success: bool, crashed: bool, discount: float) -> EpisodeResult:
        returns = discounted_returns(self.rewards, discount)
        returns_of_calls = returns[:: self.execute]
        return EpisodeResult(
            job=self.job,
            success=success,
            steps=self.step,
            first_q=self.first_q,
            initial_state=self.initial_state,
            mean_q=self.total_q / math.ceil(self.step / self.execute),
            discounted_return=returns[0],
            mean_return=sum(returns_of_calls) / len(returns_of_calls),
            crashed=crashed,
            seconds=self.seconds,
            execute=self.execute,
            jerk=jerk([np.array(self.actions)], control_hz(self.env)),
        )


def discounted_returns(rewards: list[float], discount: float) -> list[float]:
    """At each step, the discounted sum of its reward and all later ones."""
    returns: list[float] = []
    rest = 0.0
    for reward in reversed(rewards):
        rest = reward + discount * rest
        returns.append(rest)
    return returns[::-1]


class EpisodeRunner:
    """Runs jobs with one backend.

    Args:
        backend: computes the actions.
        spec: the policy's specification.
        task: OGBench single-task name.
        lanes: number of environments, which are kept between calls.
    """

    def __init__(self, backend: Backend, spec: PolicySpec, task: str, lanes: int) -> None:
        self._backend = backend
        self._spec = spec
        self._task = task
        self._discount = discount_of(spec, task)
        self._envs = [make_env(task) for _ in range(lanes)]

    def run(self, jobs: list[Job]) -> Iterator[EpisodeResult]:
        """Yield results in the order in which episodes end.

        Raises:
            FloatingPointError: the policy produced a NaN.
        """
        waiting = iter(jobs)
        lanes = [lane for env in self._envs if (lane := self._start(env, waiting)) is not None]
        while lanes:
            started = time.perf_counter()
            actions = self._act(lanes)
            ended = {
                number: result
                for number, (lane, action) in enumerate(zip(lanes, actions, strict=True))
                if (result := self._step(lane, action)) is not None
            }
            share = (time.perf_counter() - started) / len(lanes)
            going: list[_Lane] = []
            for number, lane in enumerate(lanes):
                lane.seconds += share
                if number not in ended:
                    going.append(lane)
                    continue
                success, crashed = ended[number]
                yield lane.result(success, crashed, self._discount)
                if crashed:
                    lane.env = self._replace(lane.env)
                following = self._start(lane.env, waiting)
                if following is not None:
                    going.append(following)
            lanes = going

    def _step(self, lane: _Lane, action: np.ndarray) -> tuple[bool, bool] | None:
        """Apply `action`. Returns (success, crashed) if that ended the episode, otherwise None.

        An exception in an episode's first step is a fault of the set-up and is raised. A later one means that the
        simulation failed, and so does an observation that is not finite.
        """
        try:
            observation, reward, terminated, truncated, info = lane.env.step(action)
        except Exception:
            if lane.step == 0:
                raise
            log.warning("episode %d crashed at step %d", lane.job.episode, lane.step, exc_info=True)
            lane.step += 1
            return False, True
        lane.actions.append(action)
        lane.rewards.append(float(reward))
        lane.step += 1
        lane.observation = np.asarray(observation, dtype=np.float32)
        if not np.isfinite(lane.observation).all():
            log.warning("episode %d crashed at step %d: the observation is not finite", lane.job.episode, lane.step)
            return False, True
        return (bool(info["success"]), False) if terminated or truncated else None

    def _replace(self, env: Any) -> Any:
        replacement = make_env(self._task)
        self._envs[self._envs.index(env)] = replacement
        return replacement

    def _start(self, env: Any, waiting: Iterator[Job]) -> _Lane | None:
        job = next(waiting, None)
        if job is None:
            return None
        started = time.perf_counter()
        observation = reset(env, job.episode)
        seeds = EpisodeSeeds(job.episode, job.seed_policy)
        execute = job.execute or self._spec.action_horizon - job.delay
        lane = _Lane(env, job, seeds, observation, tuple(map(float, observation)), execute)
        lane.seconds = time.perf_counter() - started
        return lane

    def _temperature(self, job: Job) -> float:
        return self._spec.temperature if job.temperature is None else job.temperature

    def _commitment(self, lane: _Lane) -> Commitment | None:
        """What the policy is told of the actions that `lane` executes until the reply comes."""
        if not lane.job.commit or not lane.planned:
            return None
        actions = self._spec.action_from_environment(np.stack(lane.planned)[None])
        coherence = self._spec.coherence if lane.job.coherence is None else lane.job.coherence
        return Commitment(actions, coherence)

    def _act(self, lanes: list[_Lane]) -> list[np.ndarray]:
        """The next action of each lane, (action_dim,) in environment units."""
        if asking := [lane for lane in lanes if len(lane.planned) <= lane.job.delay]:
            self._ask(asking)
        return [lane.planned.pop(0) for lane in lanes]

    def _ask(self, lanes: list[_Lane]) -> None:
        """Plan the next actions of lanes that have no more than are executed until the reply comes."""
        select = [lane.job.select for lane in lanes]
        commitments = [self._commitment(lane) for lane in lanes]
        inputs = [
            network_input(self._spec, lane.observation[None], None if commitment is None else commitment.actions)
            for lane, commitment in zip(lanes, commitments, strict=True)
        ]
        batch = SampleBatch.of(
            np.concatenate(inputs),
            num_candidates=[lane.job.num_candidates for lane in lanes],
            num_steps=[lane.job.num_steps for lane in lanes],
            seed=[lane.seeds.action(lane.step) for lane in lanes],
            temperature=[self._temperature(lane.job) for lane in lanes],
            return_candidates=any(rule != "best" for rule in select) or any(commitments),
        )
        result = self._backend.sample_and_score(batch)
        if result.nonfinite.any():
            lane = lanes[int(np.argmax(result.nonfinite))]
            raise FloatingPointError(f"episode {lane.job.episode}, step {lane.step}: the policy produced a NaN")
        chosen, values = choose(batch, result, select, commitments)
        chunks = self._spec.action_to_environment(chosen).reshape(len(lanes), self._spec.action_horizon, -1)
        for lane, chunk, q in zip(lanes, chunks, map(float, values), strict=True):
            first = len(lane.planned)  # these are executed until the reply comes
            end = max(first, lane.job.delay) + lane.execute
            lane.planned += list(chunk[first:end])
            lane.total_q += q
            if lane.step == 0:
                lane.first_q = q
