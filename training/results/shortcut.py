"""The shortcut error: the distance of few-step actions from all-step actions of the same noise."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from kernels.backend import Backend, SampleBatch, SampleResult
from policy import PolicySpec
from training.episodes import Job
from training.evaluation import EpisodeRunner
from training.results.protocol import Seeds
from training.results.record import Row

EPISODES = 16
STATES = 1024
BATCH = 256
OTHER_NOISE = 2**40
"""Offset of the seeds of a second, independent noise."""


class _Observer:
    """A backend that records the observations of its requests."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.engine = backend.engine
        self.observations: list[np.ndarray] = []

    def sample_and_score(self, batch: SampleBatch) -> SampleResult:
        self.observations.append(batch.observation)
        return self._backend.sample_and_score(batch)


def measure_shortcut(
    backend: Backend, spec: PolicySpec, task: str, seeds: Seeds, num_steps: tuple[int, ...], label: str
) -> list[Row]:
    """One row per M. Distances are root mean squares over states and action dimensions, actions in [-1, 1].

    `to_finest` is the distance of the M-step action from the one of `denoise_timesteps` steps of the same noise.
    `redraw` is the distance of two actions of `denoise_timesteps` steps of different noise. It is the yardstick: an M
    whose error is much smaller gives the same action.

    The states are those that the policy visits with N = 1 and M = denoise_timesteps in the first episodes of `seeds`.
    """
    finest = spec.denoise_timesteps
    states = _visited_states(backend, spec, task, seeds, label)

    def actions(steps: int, offset: int = 0) -> np.ndarray:
        parts = []
        for start in range(0, len(states), BATCH):
            part = states[start : start + BATCH]
            seeds = range(offset + start, offset + start + len(part))
            parts.append(backend.sample_and_score(SampleBatch.of(part, 1, steps, seeds, spec.temperature)).action)
        return np.concatenate(parts).astype(np.float64)

    reference, redrawn = actions(finest), actions(finest, OTHER_NOISE)
    return [
        {
            "num_steps": steps,
            "to_finest": _distance(actions(steps), reference),
            "redraw": _distance(redrawn, reference),
            "states": len(states),
            "finest": finest,
        }
        for steps in num_steps
    ]


def _visited_states(backend: Backend, spec: PolicySpec, task: str, seeds: Seeds, label: str) -> np.ndarray:
    episodes = seeds.range[:EPISODES]
    observer = _Observer(backend)
    runner = EpisodeRunner(observer, spec, task, lanes=len(episodes))
    jobs = [Job(episode, 1, spec.denoise_timesteps) for episode in episodes]
    for _ in tqdm(runner.run(jobs), total=len(jobs), unit="episode", desc=f"{label}: states for the shortcut error"):
        pass
    visited = np.concatenate(observer.observations)
    chosen = np.random.default_rng(0).permutation(len(visited))[:STATES]
    return visited[np.sort(chosen)]


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))
