"""Returns are those that the critic estimates, a crashed simulation fails its episode, a faulty set-up is an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from ogbench.relabel_utils import relabel_dataset
from sorl_client.episodes import EpisodeSeeds, make_env, reset

import training.evaluation.rollout
from kernels.backend import SampleBatch
from kernels.commitment import coherent_index, network_input
from kernels.reference import ReferenceBackend
from policy import Policy, Provenance
from tests.policies import random_policy
from tests.training.conftest import TASK
from training.episodes import EpisodeResult, Job, Selection
from training.evaluation.rollout import EpisodeRunner, discounted_returns

STEPS = 6
HZ = 10  # of the maze


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


def test_a_policys_own_temperature_is_the_default(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.evaluation.rollout, "make_env", short_env)
    jobs = [Job(11, 4, 2, temperature=temperature) for temperature in (None, 0.3, 1.0)]
    as_it_was, calm, loud = (result.mean_q for result in run(policy, jobs))
    assert as_it_was == loud != calm
    policy.spec = replace(policy.spec, temperature=0.3)
    assert [result.mean_q for result in run(policy, jobs)] == [calm, calm, loud]


class Robot:
    """An environment that notes what is done to it."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self.unwrapped = env.unwrapped
        self.observations: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []

    def reset(self, **kwargs: Any) -> Any:
        reply = self._env.reset(**kwargs)
        self.observations, self.actions = [np.float32(reply[0])], []
        return reply

    def step(self, action: np.ndarray) -> Any:
        self.actions.append(action)
        reply = self._env.step(action)
        self.observations.append(np.float32(reply[0]))
        return reply


@pytest.fixture
def robots(monkeypatch: pytest.MonkeyPatch) -> list[Robot]:
    """The environments that runners make from now on."""
    made: list[Robot] = []

    def make(task: str) -> Robot:
        made.append(Robot(short_env(task)))
        return made[-1]

    monkeypatch.setattr(training.evaluation.rollout, "make_env", make)
    return made


@pytest.mark.parametrize("select", ["best", "worst"])
@pytest.mark.parametrize("execute", [None, 4, 3, 1])
def test_a_chunk_is_executed_action_by_action(robots: list[Robot], execute: int | None, select: Selection) -> None:
    """The first k of its four actions, in environment units, one a tick; then the policy is asked again, with the noise
    of that tick. Compared with the candidates that a backend returns for the observations that the robot saw."""
    policy = random_policy(
        obs_dim=2, action_dim=2, action_low=(-0.5, -1.0), action_high=(0.5, 3.0), action_horizon=4,
        provenance=Provenance(environment=TASK, config={"discount": 0.9}),
    )  # fmt: skip
    (result,) = run(policy, [Job(11, 4, 2, select=select, execute=execute)], lanes=1)
    k = execute or 4
    asked = list(range(0, STEPS, k))
    expected, q = [], []
    for step in asked:
        seed = EpisodeSeeds(11).action(step)
        batch = SampleBatch.of(robots[0].observations[step][None], 4, 2, seed, return_candidates=True)
        reply = ReferenceBackend(policy).sample_and_score(batch)
        assert reply.candidates is not None
        assert reply.candidate_q is not None
        number = int(np.argmax(reply.candidate_q[0]) if select == "best" else np.argmin(reply.candidate_q[0]))
        chunk = reply.candidates[0][number].reshape(4, 2)
        expected += [action * [0.5, 2.0] + [0.0, 1.0] for action in chunk[:k]]
        q.append(float(reply.candidate_q[0][number]))
    np.testing.assert_allclose(robots[0].actions, expected[:STEPS], rtol=1e-5, atol=1e-6)
    assert (result.steps, result.calls, result.execute) == (STEPS, len(asked), k)
    assert result.first_q == pytest.approx(q[0], rel=1e-5)
    assert result.mean_q == pytest.approx(sum(q) / len(q), rel=1e-5)
    # Reward -1 at each of six steps, discount 0.9; the critic estimates the return at the steps that it was asked at.
    assert result.discounted_return == pytest.approx(-(1 - 0.9**STEPS) / 0.1)
    returns = [-(1 - 0.9 ** (STEPS - step)) / 0.1 for step in asked]
    assert result.mean_return == pytest.approx(sum(returns) / len(returns))
    a = np.float64(robots[0].actions)
    seconds = [np.hypot(*(a[i] - 2 * a[i + 1] + a[i + 2])) * HZ**2 for i in range(STEPS - 2)]
    assert result.jerk == pytest.approx(sum(seconds) / len(seconds))


@pytest.mark.parametrize("commit", [True, False])
@pytest.mark.parametrize(
    ("delay", "execute", "prefix_max"), [(1, None, 0), (1, 2, 0), (2, 1, 0), (2, None, 3), (3, 1, 1)]
)
def test_a_robot_executes_the_rest_of_a_chunk_until_the_next_one_comes(
    robots: list[Robot], delay: int, execute: int | None, prefix_max: int, commit: bool
) -> None:
    """Tick by tick, by hand: what is asked at tick t is executed from tick t + delay on, and of the first chunk all
    that is due before."""
    policy = random_policy(
        obs_dim=2, action_dim=2, action_low=(-0.5, -1.0), action_high=(0.5, 3.0), action_horizon=4,
        prefix_max=prefix_max, coherence=0.5, provenance=Provenance(environment=TASK, config={"discount": 0.9}),
    )  # fmt: skip
    (result,) = run(policy, [Job(11, 8, 2, execute=execute, delay=delay, commit=commit)], lanes=1)
    k = execute or 4 - delay
    planned: dict[int, np.ndarray] = {}  # by tick, in [-1, 1]
    asked = list(range(0, STEPS, k))
    for tick in asked:
        committed = np.array([planned[tick + i] for i in range(delay)])[None] if tick else None
        inputs = network_input(policy.spec, robots[0].observations[tick][None], committed if commit else None)
        batch = SampleBatch.of(inputs, 8, 2, EpisodeSeeds(11).action(tick), return_candidates=True)
        reply = ReferenceBackend(policy).sample_and_score(batch)
        assert reply.candidates is not None
        assert reply.candidate_q is not None
        number = int(np.argmax(reply.candidate_q[0]))
        if committed is not None and commit:
            number = coherent_index(reply.candidates[0], reply.candidate_q[0], committed[0], 0.5)
        chunk = reply.candidates[0][number].reshape(4, 2)
        for index in range(0 if tick == 0 else delay, delay + k):
            planned[tick + index] = chunk[index]
    expected = [planned[tick] * [0.5, 2.0] + [0.0, 1.0] for tick in range(STEPS)]
    np.testing.assert_allclose(robots[0].actions, expected, rtol=1e-5, atol=1e-5)
    assert (result.calls, result.execute) == (len(asked), k)


def test_lanes_that_execute_different_numbers_of_actions_do_not_disturb_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = random_policy(obs_dim=2, action_dim=2, action_horizon=4, provenance=Provenance(environment=TASK))
    monkeypatch.setattr(training.evaluation.rollout, "make_env", short_env)
    jobs = [Job(episode, 2, 1, execute=k) for episode in (1, 2, 3) for k in (1, 3, 4)]
    together, alone = run(policy, jobs, lanes=4), run(policy, jobs, lanes=1)
    assert {result.job: result.calls for result in together} == {job: -(-STEPS // (job.execute or 4)) for job in jobs}
    for field in ("mean_q", "jerk"):
        found, expected = ({r.job: getattr(r, field) for r in results} for results in (together, alone))
        assert found == pytest.approx(expected, rel=1e-4)


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
