"""Simulated episodes that can be repeated: what an episode seed and a step number determine.

Driving a robot through HTTP (`sorl-drive`) and evaluating in process (`sorl-evaluate`) both run on this module, so
that the same seeds meet the same initial states and ask for the same noise.
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

SeedPolicy = Literal["step", "episode"]
STEPS_PER_EPISODE = 2**20


@dataclass(frozen=True)
class EpisodeSeeds:
    """Seeds of one episode.

    "step" draws fresh noise at every control tick (the default, and how success is reported); "episode" keeps the
    noise of the first tick, so that best-of-N does not flip between modes from one tick to the next.
    """

    episode: int
    policy: SeedPolicy = "step"

    def action(self, step: int) -> int:
        """Seed of the action at `step`: distinct over all (episode < 2^33, step < 2^20), and below 2^53."""
        return self.episode * STEPS_PER_EPISODE + (step if self.policy == "step" else 0)


def make_env(task: str) -> Any:
    """The OGBench environment of `task` (say "cube-single-play-singletask-task2-v0"), default horizon."""
    with quiet_simulator():
        import ogbench

        env = ogbench.make_env_and_datasets(task, env_only=True)
        keep_action_space(env)
    return env


@contextmanager
def quiet_simulator() -> Iterator[None]:
    """Without two warnings that concern nobody: OGBench looks for a display, and its spaces have float64 bounds."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\(65\d+\)")
        warnings.filterwarnings("ignore", message=r".*precision lowered by casting to float32")
        yield


def keep_action_space(env: Any) -> None:
    """Give `env` one action space for life, which can be seeded.

    Manipulation environments build a new one, with fresh entropy of the operating system, at every access, and their
    reset draws two actions from it: equal seeds would give unequal initial states.
    """
    base = env.unwrapped
    if isinstance(getattr(type(base), "action_space", None), property):
        space = base.action_space
        base.__class__ = type(type(base).__name__, (type(base),), {"action_space": cached_property(lambda _: space)})


def reset(env: Any, seed: int) -> npt.NDArray[np.float32]:
    """Start the episode of `seed`; returns the first observation, (obs_dim,)."""
    words = np.random.SeedSequence(seed).generate_state(2)
    np.random.seed(words[0])  # mazes read the global generator
    env.unwrapped.action_space.seed(int(words[1]))
    observation, _ = env.reset(seed=int(words[1]))
    return np.asarray(observation, dtype=np.float32)


def control_hz(env: Any) -> float:
    """The rate at which the environment expects actions."""
    base = env.unwrapped
    period = getattr(base, "_control_timestep", None) or base.dt
    return 1.0 / float(period)


def seeds(first: int, episodes: int, policy: SeedPolicy = "step") -> Iterator[EpisodeSeeds]:
    """The seeds of `episodes` consecutive episodes."""
    for episode in range(first, first + episodes):
        yield EpisodeSeeds(episode, policy)
