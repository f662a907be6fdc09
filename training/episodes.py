"""An evaluation episode: its request (`Job`) and its outcome (`EpisodeResult`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sorl_client.episodes import SeedPolicy

Selection = Literal["best", "upper-quartile", "random", "worst"]
"""Which of the N candidates is executed: the one of highest Q, the one of rank N // 4 by descending Q (counted from 0),
a random one, or the one of lowest Q."""


@dataclass(frozen=True)
class Job:
    """One episode to run under one compute budget."""

    episode: int
    """The episode's seed: it determines the initial state and, with `seed_policy`, all noise."""
    num_candidates: int
    num_steps: int
    seed_policy: SeedPolicy = "step"
    temperature: float | None = None
    """Scale of the flow's noise. None: the policy's."""
    select: Selection = "best"
    execute: int | None = None
    """How many actions of a chunk are executed before the policy is asked again. None: all but `delay`."""
    delay: int = 0
    """Control ticks from an observation to the first action of its chunk: the chunk's first so many actions are not
    executed, since the rest of the chunk before it is."""
    commit: bool = False
    """Is the policy told which actions are executed meanwhile?"""
    coherence: float | None = None
    """The weight of what it is told, see `kernels.commitment`. None: the policy's."""


@dataclass(frozen=True)
class EpisodeResult:
    """The outcome of a job."""

    job: Job
    success: bool
    steps: int
    first_q: float
    """Q of the first executed action."""
    initial_state: tuple[float, ...]
    """The first observation. Episodes of one cell must differ in it."""
    mean_q: float
    """Mean Q of the executed actions; of chunks, one Q each."""
    discounted_return: float
    """Sum of gamma^t r_t, which is what the critic estimates at the first step. Single-task environments reward a step
    by the state it starts from, as relabelled data does. A time-out cuts the sum off."""
    mean_return: float
    """Mean of the discounted returns from the steps on at which the policy was asked: what `mean_q` estimates."""
    crashed: bool
    """The simulation failed; the episode counts as a failure."""
    seconds: float
    """Share of the worker's wall time: a tick is divided equally among the environments that it stepped."""
    execute: int = 1
    """Actions executed of each reply."""
    jerk: float = 0.0
    """Of the executed actions, in action units per second squared: see `sorl_client.statistics.jerk`."""

    @property
    def calls(self) -> int:
        """How often the policy was asked."""
        return math.ceil(self.steps / self.execute)
