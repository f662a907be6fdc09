import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sorl_client import episodes
from sorl_client.episodes import EpisodeSeeds

CUBE = "cube-single-play-singletask-task2-v0"
MAZE = "pointmaze-medium-navigate-singletask-task1-v0"
EPISODES = st.integers(0, 2**33 - 1)
STEPS = st.integers(0, 2**20 - 1)


@given(EPISODES, STEPS, EPISODES, STEPS)
def test_fresh_noise_differs_between_any_two_ticks(episode, step, other_episode, other_step):
    seed, other = EpisodeSeeds(episode).action(step), EpisodeSeeds(other_episode).action(other_step)
    assert (seed == other) == ((episode, step) == (other_episode, other_step))
    assert 0 <= seed < 2**53


@given(EPISODES, STEPS)
def test_an_episode_keeps_the_noise_of_its_first_tick(episode, step):
    assert EpisodeSeeds(episode, "episode").action(step) == EpisodeSeeds(episode, "step").action(0)


def test_seeds_are_of_consecutive_episodes():
    assert list(episodes.seeds(3, 2, "episode")) == [EpisodeSeeds(3, "episode"), EpisodeSeeds(4, "episode")]


@pytest.fixture(scope="module", params=[CUBE, MAZE])
def task(request):
    return request.param


@pytest.fixture(scope="module")
def env(task):
    env = episodes.make_env(task)
    yield env
    env.close()


def trajectory(env, seed):
    """The bytes of the observations of five steps with fixed actions."""
    seen = [episodes.reset(env, seed)]
    for step in range(5):
        action = np.sin(np.arange(env.action_space.shape[0]) + step).astype(np.float32)
        seen.append(env.step(action)[0])
    return b"".join(np.asarray(observation, np.float64).tobytes() for observation in seen)


def test_a_seed_determines_an_episode_bit_for_bit(env, task):
    first = trajectory(env, 7)
    assert trajectory(env, 8) != first
    np.random.rand(3)  # as if other code had used the global generator
    assert trajectory(env, 7) == first
    again = episodes.make_env(task)
    assert trajectory(again, 7) == first
    again.close()


def test_the_first_observation_is_float32_and_in_the_space(env):
    observation = episodes.reset(env, 0)
    assert observation.dtype == np.float32
    assert observation.shape == env.observation_space.shape


def test_the_control_rate_is_the_environments(env, task):
    assert episodes.control_hz(env) == pytest.approx({CUBE: 20.0, MAZE: 10.0}[task])
