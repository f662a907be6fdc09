from types import SimpleNamespace

import numpy as np
import pytest
from sorl_client import DeadlineExceeded, Overloaded, episodes
from sorl_client.control import Ask, run_episode

DEFAULT = Ask()


class Robot:
    """A 10 Hz environment. It observes its number of steps, succeeds after `goal` steps, and records their times."""

    dt = 0.1
    observation_space = SimpleNamespace(shape=(1,))
    action_space = SimpleNamespace(shape=(2,), seed=lambda seed: None)

    def __init__(self, clock, goal=5):
        self.unwrapped = self
        self.clock = clock
        self.goal = goal
        self.moved = []

    def reset(self, seed):
        self.moved = []
        return np.zeros(1), {}

    def step(self, action):
        self.moved.append((round(self.clock() - 100.0, 6), action.tolist()))
        done = len(self.moved) == self.goal
        return np.array([len(self.moved)], np.float64), 0.0, done, False, {"success": float(done)}


class Server:
    """Answers each request after the next of `takes`, in seconds; an exception among them is raised at once."""

    def __init__(self, clock, *takes):
        self.clock = clock
        self.takes = list(takes)
        self.asked = []

    def act(self, observation, **fields):
        self.asked.append((observation.tolist(), fields))
        take = self.takes.pop(0) if self.takes else 0.01
        if isinstance(take, Exception):
            raise take
        self.clock.now += take
        action = np.array([1.0, len(self.asked)], np.float32)
        return SimpleNamespace(action=action, degraded="slow" if take > 0.05 else False, engine="e", model_version="v")


def drive(clock, *takes, ask=DEFAULT, policy="step", goal=5, **options):
    robot, server = Robot(clock, goal), Server(clock, *takes)
    seeds = episodes.EpisodeSeeds(3, policy)
    episode = run_episode(robot, server, seeds, ask, clock=clock, sleep=clock.sleep, **options)
    return episode, robot, server


def test_actions_come_at_the_environments_rate(clock):
    episode, robot, _ = drive(clock, 0.01, 0.03, 0.02)
    assert [time for time, _ in robot.moved] == pytest.approx([0.01, 0.13, 0.22, 0.31, 0.41])
    assert (episode.success, episode.steps, episode.misses, episode.holds) == (True, 5, 0, 0)
    assert episode.latencies_ms == pytest.approx([10, 30, 20, 10, 10])
    assert episode.limit_ms == pytest.approx(100.0)
    assert episode.actions.tolist() == [[1.0, n] for n in range(1, 6)]


def test_a_late_action_is_applied_late_and_shifts_the_ticks(clock):
    episode, robot, _ = drive(clock, 0.01, 0.25)
    assert [time for time, _ in robot.moved] == pytest.approx([0.01, 0.35, 0.36, 0.46, 0.56])
    assert episode.misses == 1
    assert episode.degraded == 1


def test_as_fast_as_possible_never_sleeps_and_still_counts_misses(clock):
    episode, _, _ = drive(clock, 0.01, 0.101, realtime=False)
    assert clock.slept == []
    assert episode.misses == 1


def test_a_tick_without_an_action_holds(clock):
    episode, robot, server = drive(clock, 0.01, DeadlineExceeded("spent"), ask=Ask(deadline_ms=20.0))
    assert [action for _, action in robot.moved][:3] == [[1.0, 1.0], [0.0, 0.0], [1.0, 3.0]]
    assert (episode.misses, episode.holds, episode.limit_ms) == (1, 1, 20.0)
    assert server.asked[0][1]["deadline_ms"] == 20.0


def test_other_errors_end_the_episode(clock):
    with pytest.raises(Overloaded):
        drive(clock, Overloaded("full"))


def test_the_seed_policy_decides_the_seeds(clock):
    for policy, expected in {"step": [3 * 2**20, 3 * 2**20 + 1], "episode": [3 * 2**20] * 2}.items():
        _, _, server = drive(clock, goal=2, policy=policy)
        assert [fields["seed"] for _, fields in server.asked] == expected


def test_requests_have_the_observation_and_the_budget(clock):
    ask = Ask(model="m", num_candidates=8, num_steps=2, on_late="reject", min_quality=0.25, temperature=0.5)
    _, _, server = drive(clock, goal=3, ask=ask)
    assert [observation for observation, _ in server.asked] == [[0.0], [1.0], [2.0]]
    fields = server.asked[0][1] | {"seed": None}
    assert fields == {
        "model": "m",
        "num_candidates": 8,
        "num_steps": 2,
        "deadline_ms": None,
        "on_late": "reject",
        "min_quality": 0.25,
        "temperature": 0.5,
        "seed": None,
    }


def test_an_episode_can_be_cut_short(clock):
    episode, _, _ = drive(clock, max_steps=2)
    assert (episode.success, episode.steps) == (False, 2)
