"""Returns are those that the critic estimates, a crashed simulation fails its episode, a faulty set-up is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from ogbench.relabel_utils import relabel_dataset
from sorl_client.episodes import make_env, reset

import training.evaluation.rollout
from kernels.reference import ReferenceBackend
from policy import Policy, Provenance
from tests.policies import random_policy
from tests.training.conftest import TASK
from training.episodes import EpisodeResult, Job
from training.evaluation.rollout import EpisodeRunner, discounted_returns

STEPS = 6


class Faulty:
    """An environment whose simulation fails at a step."""

    def __init__(self, env: Any, at: int, how: Callable[[], np.ndarray]) -> None:
        self._env, self._at, self._how = env, at, how
        self.unwrapped = env.unwrapped

    def reset(self, **kwargs: Any) -> Any:
        self._step = 0
        return self._env.reset(**kwargs)

    def step(self, action: np.ndarray) -> Any:
        self._step += 1
        if self._step == self._at:
            return self._how(), -1.0, False, False, {"success": False}
        return self._env.step(action)


def short_env(task: str) -> Any:
    return TimeLimit(make_env(task).unwrapped, STEPS)


@pytest.fixture
def policy() -> Policy:
    return random_policy(obs_dim=2, action_dim=2, provenance=Provenance(environment=TASK, config={"discount": 0.9}))


def run(policy: Policy, jobs: list[Job], lanes: int = 2) -> list[EpisodeResult]:
    return list(EpisodeRunner(ReferenceBackend(policy), policy.spec, TASK, lanes).run(jobs))


def test_discounted_returns_calculated_by_hand() -> None:
    assert discounted_returns([-1.0, -1.0, 0.0, -2.0], 0.5) == [-1.75, -1.5, -1.0, -2.0]


def test_the_environment_rewards_as_the_data_is_relabelled() -> None:
    """The single-task environment's reward of a step is the one that relabelling gives the state it started from."""
    env = make_env(TASK)
    reset(env, 3)
    base = env.unwrapped
    rewards, states = [], []
    for offset in (3.0, 1.0, 0.6, 0.2, 0.0):
        base.set_xy(base.cur_goal_xy + np.array([offset, 0.0]))
        states.append(base.get_xy().copy())
        _, reward, terminated, _, _ = env.step(np.zeros(2, np.float32))
        rewards.append(reward)
    data = {"qpos": np.array(states)}
    relabel_dataset("pointmaze-medium", env, data)
    assert rewards == list(data["rewards"])
    assert sorted(set(rewards)) == [-1.0, 0.0]
    assert terminated
    assert data["masks"][-1] == 0.0
    env.close()


def test_the_returns_and_q_of_an_episode(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.evaluation.rollout, "make_env", short_env)
    (result,) = run(policy, [Job(11, 4, 2)])
    assert (result.steps, result.success, result.crashed) == (STEPS, False, False)
    # Reward -1 at each of six steps, discount 0.9.
    assert result.discounted_return == pytest.approx(-(1 - 0.9**STEPS) / 0.1)
    assert result.mean_return == pytest.approx(-sum((1 - 0.9**k) / 0.1 for k in range(1, STEPS + 1)) / STEPS)
    assert result.seconds > 0
    assert result.mean_q != result.first_q


def test_the_best_candidate_has_the_highest_first_q(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.evaluation.rollout, "make_env", short_env)
    jobs = [Job(5, 8, 2, select=rule) for rule in ("worst", "random", "best")]  # type: ignore[arg-type]
    by_rule = {result.job.select: result.first_q for result in run(policy, jobs, lanes=3)}
    assert by_rule["worst"] < by_rule["best"]
    assert by_rule["worst"] <= by_rule["random"] <= by_rule["best"]
    again = {result.job.select: result.first_q for result in run(policy, jobs, lanes=1)}
    assert again == pytest.approx(by_rule, rel=1e-5)


def failing() -> np.ndarray:
    raise RuntimeError("simulation diverged")


def not_finite() -> np.ndarray:
    return np.array([np.nan, 0.0], np.float32)


@pytest.mark.parametrize("how", [failing, not_finite])
def test_a_crashed_episode_fails_and_the_others_continue(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, how: Callable[[], np.ndarray]
) -> None:
    made: list[Any] = []

    def make(task: str) -> Any:
        made.append(Faulty(short_env(task), 3, how) if not made else short_env(task))
        return made[-1]

    monkeypatch.setattr(training.evaluation.rollout, "make_env", make)
    results = run(policy, [Job(episode, 1, 1) for episode in range(4)])
    crashed = [result for result in results if result.crashed]
    assert [(result.job.episode, result.steps, result.success) for result in crashed] == [(0, 3, False)]
    assert sorted(result.job.episode for result in results) == [0, 1, 2, 3]
    assert all(result.steps == STEPS for result in results if not result.crashed)
    assert len(made) == 3  # two lanes, and a replacement


def test_a_first_step_that_fails_is_an_error(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.evaluation.rollout, "make_env", lambda task: Faulty(short_env(task), 1, failing))
    with pytest.raises(RuntimeError, match="diverged"):
        run(policy, [Job(0, 1, 1)])
