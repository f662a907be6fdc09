"""`evaluate_policy`: success of a policy over a grid of compute budgets (N, M), in parallel environments.

For a policy that proposes chunks, the grid has a third axis: how many of a chunk's actions are executed.

Every cell runs the same episode seeds, hence the same initial states, with fresh noise at every (episode, step). The
episodes that choose a budget must not be the ones that report its success: use one --first-seed to choose and another
to report.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from sorl_client.statistics import wilson_interval
from tqdm import tqdm

from kernels.backend import Precision
from kernels.choice import create_backend
from policy import Measurement, load_policy
from training.episode_table import EpisodeRow, write_rows
from training.episodes import EpisodeResult, Job, Selection
from training.evaluation.facts import discount_of, policy_facts
from training.evaluation.workers import run_jobs
from training.files import require_file, write_json
from training.ranges import (
    CANDIDATES,
    EPISODE_SEED,
    EPISODES,
    MOST_WORKERS,
    NOT_NEGATIVE,
    STEPS,
    OneOrMore,
    Range,
    require_ranges,
)
from training.tasks import UnknownTask, make_task


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure success over a grid of compute budgets. Prints a table; --json and --csv write it too."""

    policy: tyro.conf.Positional[Path]
    """A .safetensors policy."""
    task: str | None = None
    """OGBench single-task name. Default: the one that the policy was trained for."""
    num_candidates: Annotated[tuple[Annotated[int, CANDIDATES], ...], OneOrMore()] = (1, 8, 32)
    """Numbers of candidates N of the grid."""
    num_steps: Annotated[tuple[Annotated[int, STEPS], ...], OneOrMore()] = (1, 2, 4, 8)
    """Numbers of steps M of the grid."""
    execute: Annotated[tuple[Annotated[int, Range(1)], ...], OneOrMore()] | None = None
    """Numbers of actions k of the grid: of a chunk of h actions the first k are executed, one at each control tick,
    before the policy is asked again. Default: all h, less --delay."""
    delay: Annotated[int, Range(0)] = 0
    """Control ticks from an observation to the first action of its chunk, as network and server take them: meanwhile
    the robot executes the rest of the chunk before. At most h minus the largest --execute."""
    commit: bool = True
    """With --delay: tell the policy which actions are executed meanwhile, as a request's `committed` does."""
    coherence: Annotated[float, Range(0, 1)] | None = None
    """The weight of that in the choice of the candidate, 0 to 1. Default: the policy's."""
    episodes: Annotated[int, EPISODES] = 50
    """Episodes per cell."""
    first_seed: Annotated[int, EPISODE_SEED] = 10_000
    """Episode seeds are first_seed .. first_seed + episodes - 1, in every cell."""
    seed_policy: Literal["step", "episode"] = "step"
    """step: fresh noise at every control tick. episode: the same noise throughout an episode."""
    temperature: Annotated[float, NOT_NEGATIVE] | None = None
    """Scale of the initial noise of the flow. Default: the policy's."""
    select: Selection = "best"
    """Which of the N candidates is executed. best: the one of highest Q, as the service does. upper-quartile: the one
    of rank N // 4 by descending Q, counted from 0; of 64 the 17th. random: a random one. worst: that of lowest Q."""
    precision: Precision = "auto"
    """Precision of the engine's hidden products. auto: as the service chooses on this machine."""
    processes: Annotated[int, Range(0, MOST_WORKERS)] = 0
    """Worker processes, one compute thread each. 0 means one per available core."""
    lanes: Annotated[int, Range(1, MOST_WORKERS)] = 8
    """Environments per process. Their requests share one batch."""
    json: Path | None = None
    """Write cells and conditions to this file, which sorl-export reads."""
    csv: Path | None = None
    """Write one row per episode to this file."""

    def __post_init__(self) -> None:
        require_ranges(self)


def evaluate_policy(config: EvaluateConfig) -> dict[str, Any]:
    """Run the grid. Returns a report: conditions, wall time, and per cell the fields of `Measurement` and means.

    Raises:
        OutputError: `json` or `csv` cannot be written; nothing has been run.
        CheckpointError: the policy file is damaged, or was replaced meanwhile.
        ValueError: neither `config` nor the policy names a task, OGBench does not know it, M is beyond the policy's
            grid, or `execute` beyond its chunk.
        FloatingPointError: the policy produced a NaN.
    """
    for flag, path in (("--json", config.json), ("--csv", config.csv)):
        if path:
            require_file(flag, path)
    policy = load_policy(config.policy)
    spec = policy.spec
    task = config.task or spec.provenance.environment
    if not task:
        raise ValueError(f"{config.policy} does not name its environment; pass --task")
    if max(config.num_steps) > spec.denoise_timesteps:
        raise ValueError(f"--num-steps must be at most {spec.denoise_timesteps}, the policy's denoise_timesteps")
    if config.delay >= spec.action_horizon:
        raise ValueError(f"--delay must be at most {spec.action_horizon - 1}, the policy's action_horizon minus 1")
    if config.delay and config.commit and config.select != "best":
        raise ValueError(f"--select {config.select} takes no account of committed actions: add --no-commit")
    left = spec.action_horizon - config.delay
    execute = config.execute or (left,)
    if max(execute) > left:
        raise ValueError(f"--execute must be at most {left}, the policy's action_horizon minus --delay")
    _require_simulated(task)
    jobs = [
        Job(
            episode,
            n,
            m,
            config.seed_policy,
            config.temperature,
            config.select,
            k,
            config.delay,
            config.commit and config.delay > 0,
            config.coherence,
        )
        for n, m, k in product(config.num_candidates, config.num_steps, execute)
        for episode in range(config.first_seed, config.first_seed + config.episodes)
    ]
    started = time.perf_counter()
    results: list[EpisodeResult] = []
    with tqdm(total=len(jobs), unit="episode", desc=task) as bar:
        where = config.processes, config.lanes, config.precision
        for done in run_jobs(config.policy, policy.version, task, jobs, *where):
            results += done
            bar.update(len(done))
    results.sort(key=lambda r: (*_cell(r), r.job.episode))
    seconds = time.perf_counter() - started
    cells = product(config.num_candidates, config.num_steps, execute)
    measured = [_measure([r for r in results if _cell(r) == cell]) for cell in dict.fromkeys(cells)]
    report = {
        "policy": config.policy.name,
        **policy_facts(policy),
        "engine": create_backend(policy, "auto", "cpu", config.precision).engine,
        "task": task,
        "discount": discount_of(spec, task),
        "first_seed": config.first_seed,
        "episodes": config.episodes,
        "seed_policy": config.seed_policy,
        "temperature": spec.temperature if config.temperature is None else config.temperature,
        "select": config.select,
        "delay": config.delay,
        "commit": config.commit and config.delay > 0,
        "coherence": spec.coherence if config.coherence is None else config.coherence,
        "seconds": round(seconds, 1),
        "cells": measured,
    }
    if config.json:
        write_json(config.json, report)
    if config.csv:
        write_rows(config.csv, map(EpisodeRow.of, results))
    return report


def _require_simulated(task: str) -> None:
    """Raise ValueError if OGBench does not know `task`. Raised in a worker, it would read "the pool is broken"."""
    try:
        make_task(task).close()
    except UnknownTask as error:
        raise UnknownTask(f"--task: {error}") from None


def _cell(result: EpisodeResult) -> tuple[int, int, int]:
    return result.job.num_candidates, result.job.num_steps, result.execute


def _measure(results: list[EpisodeResult]) -> dict[str, Any]:
    if len({result.initial_state for result in results}) != len(results):
        raise AssertionError("two episodes of a cell began in the same state: the environment ignores its seed")
    successes, episodes = sum(result.success for result in results), len(results)
    low, high = wilson_interval(successes, episodes)
    n, m, execute = _cell(results[0])
    measurement = Measurement(n, m, successes / episodes, low, high, episodes)
    means = {
        f"mean_{name}": sum(getattr(result, name) for result in results) / episodes
        for name in ("steps", "calls", "jerk", "first_q", "discounted_return")
    }
    return {**asdict(measurement), "execute": execute, **means, "crashes": sum(result.crashed for result in results)}
