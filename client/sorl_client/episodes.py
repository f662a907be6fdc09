"""Repeatable simulated episodes: the seeds of initial states and of noise, and the environments.

Driving through HTTP (`sorl-drive`) and evaluating in process (`sorl-evaluate`) both use this module, so equal seeds
give equal initial states and equal noise in both.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sorl_client import parameters

SeedPolicy = Literal["step", "episode"]
STEPS_PER_EPISODE = 2**20


@dataclass(frozen=True)
class EpisodeSeeds:
    """The seeds of one episode.

    With policy "step" every control tick has its own noise; this is the default, and success is reported with it. With
    "episode" all ticks use the noise of the first, so that best-of-N does not flip between modes from tick to tick.
    `episode` is below 2^33, else InvalidArgument is raised.
    """

    episode: int
    policy: SeedPolicy = "step"

    def __post_init__(self) -> None:
        object.__setattr__(self, "episode", parameters.EPISODE("episode", self.episode))

    def action(self, step: int) -> int:
        """The seed of the action at `step`: distinct for all episodes and steps < 2^20, and below 2^53."""
        step = parameters.COUNT("step", step)
        return self.episode * STEPS_PER_EPISODE + (step if self.policy == "step" else 0)


def make_env(task: str) -> Any:
    """Make the OGBench environment `task` (e.g. "cube-single-play-singletask-task2-v0"), with its default horizon."""
    with quiet_simulator():
        import ogbench

        env = ogbench.make_env_and_datasets(task, env_only=True)
        keep_action_space(env)
    return env


@contextmanager
def quiet_simulator() -> Iterator[None]:
    """Context manager: hides two harmless warnings. OGBench looks for a display, and its spaces have float64 bounds."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\(65\d+\)")
        warnings.filterwarnings("ignore", message=r".*precision lowered by casting to float32")
        yield


def keep_action_space(env: Any) -> None:
    """Make `env` keep one action space, which can be seeded.

    Manipulation environments make a new one at every access, seeded by the operating system, and their reset draws two
    actions from it. Equal seeds would then give different initial states.
    """
    base = env.unwrapped
    if isinstance(getattr(type(base), "action_space", None), property):
        space = base.action_space
        base.__class__ = type(type(base).__name__, (type(base),), {"action_space": cached_property(lambda _: space)})


def reset(env: Any, seed: int) -> npt.NDArray[np.float32]:
    """Start the episode of `seed`; returns the first observation, (obs_dim,)."""
    seed = parameters.EPISODE("seed", seed)
    words = np.random.SeedSequence(seed).generate_state(2)
    np.random.seed(words[0])  # mazes use NumPy's global generator
    env.unwrapped.action_space.seed(int(words[1]))
    observation, _ = env.reset(seed=int(words[1]))
    return np.asarray(observation, dtype=np.float32)


def control_hz(env: Any) -> float:
    """The environment's control rate in Hz."""
    base = env.unwrapped
    period = getattr(base, "_control_timestep", None) or base.dt
    return 1.0 / float(period)


def seeds(first: int, episodes: int, policy: SeedPolicy = "step") -> Iterator[EpisodeSeeds]:
    """The seeds of `episodes` consecutive episodes. Raises InvalidArgument if the first or last is out of range."""
    first = parameters.EPISODE("first", first)
    episodes = parameters.Whole(0, parameters.EPISODE.most - first + 1)("episodes", episodes)
    return (EpisodeSeeds(episode, policy) for episode in range(first, first + episodes))
