"""`sorl-evaluate`: success of a policy over a grid of compute budgets (N, M), in parallel environments.

Every cell runs the same episode seeds, hence the same initial states, with fresh noise at every (episode, step).
Cells that choose a budget and the figure that is reported must not share seeds: choose on one --first-seed, report
on another.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import gymnasium
import tyro
from sorl_client.episodes import make_env
from sorl_client.statistics import wilson_interval
from tqdm import tqdm

from kernels.backend import Precision
from kernels.choice import create_backend
from policy import CheckpointError, Measurement, load_policy
from training.evaluation.episode_table import EpisodeRow, write_rows
from training.evaluation.facts import discount_of, policy_facts
from training.evaluation.rollout import EpisodeResult, Job
from training.evaluation.selection import Selection
from training.evaluation.workers import run_jobs
from training.files import write_json


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure success over a grid of compute budgets; prints a table, and writes it with --json and --csv."""

    policy: tyro.conf.Positional[Path]
    """A .safetensors policy."""
    task: str | None = None
    """OGBench single-task name; without it, the one the policy was trained for."""
    num_candidates: tuple[int, ...] = (1, 8, 32)
    """N of the grid."""
    num_steps: tuple[int, ...] = (1, 2, 4, 8)
    """M of the grid."""
    episodes: int = 50
    """Episodes a cell."""
    first_seed: int = 10_000
    """Episode seeds are first_seed .. first_seed + episodes - 1, in every cell."""
    seed_policy: Literal["step", "episode"] = "step"
    """Fresh noise at every control tick, or the same noise throughout an episode."""
    temperature: float = 1.0
    """Scale of the initial noise."""
    select: Selection = "best"
    """Which of the N candidates is executed: the one of highest value, a random one, or the one of lowest value."""
    precision: Precision = "auto"
    """Of the engine's hidden products; auto is what the service would take on this machine."""
    processes: int = 0
    """Worker processes, one compute thread each; 0 means one per available core."""
    lanes: int = 8
    """Environments in a process; their requests share one batch."""
    json: Path | None = None
    """Write cells and conditions here (sorl-export reads it)."""
    csv: Path | None = None
    """Write one row an episode here."""

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("first_seed", 0), ("processes", 0), ("lanes", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("num_candidates", "num_steps"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(f"{name} must be one or more numbers of at least 1, got {getattr(self, name)}")


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Run the grid. Returns a report: conditions, cells (as `Measurement` fields), mean steps and wall time.

    Raises:
        CheckpointError: the policy file is damaged.
        ValueError: no task is named, neither here nor in the policy; OGBench doesn't know it; or M is beyond the
            policy's grid.
    """
    policy = load_policy(config.policy)
    spec = policy.spec
    task = config.task or spec.provenance.environment
    if not task:
        raise ValueError(f"{config.policy} does not name its environment; say --task")
    if max(config.num_steps) > spec.denoise_timesteps:
        raise ValueError(f"num_steps must be at most {spec.denoise_timesteps}, the policy's denoise_timesteps")
    _require_simulated(task)
    jobs = [
        Job(episode, n, m, config.seed_policy, config.temperature, config.select)
        for n, m in product(config.num_candidates, config.num_steps)
        for episode in range(config.first_seed, config.first_seed + config.episodes)
    ]
    started = time.perf_counter()
    results: list[EpisodeResult] = []
    with tqdm(total=len(jobs), unit="episode", desc=task) as bar:
        where = config.processes, config.lanes, config.precision
        for done in run_jobs(config.policy, policy.version, task, jobs, *where):
            results += done
            bar.update(len(done))
    results.sort(key=lambda r: (*_cell(r.job), r.job.episode))
    seconds = time.perf_counter() - started
    cells = [_measure([r for r in results if _cell(r.job) == cell]) for cell in dict.fromkeys(map(_cell, jobs))]
    report = {
        "policy": config.policy.name,
        **policy_facts(policy),
        "engine": create_backend(policy, "auto", "cpu", config.precision).engine,
        "task": task,
        "discount": discount_of(spec, task),
        "first_seed": config.first_seed,
        "episodes": config.episodes,
        "seed_policy": config.seed_policy,
        "temperature": config.temperature,
        "select": config.select,
        "seconds": round(seconds, 1),
        "cells": cells,
    }
    if config.json:
        write_json(config.json, report)
    if config.csv:
        write_rows(config.csv, map(EpisodeRow.of, results))
    return report


def _require_simulated(task: str) -> None:
    """Here, because an error in every worker's start would only say that the pool is broken."""
    try:
        make_env(task).close()
    except gymnasium.error.Error as error:
        raise ValueError(f"OGBench does not know the task {task!r} ({error}); say --task") from None


def _cell(job: Job) -> tuple[int, int]:
    return job.num_candidates, job.num_steps


def _measure(results: list[EpisodeResult]) -> dict[str, Any]:
    if len({result.initial_state for result in results}) != len(results):
        raise AssertionError("two episodes of a cell began in the same state: the environment ignores its seed")
    successes, episodes = sum(result.success for result in results), len(results)
    low, high = wilson_interval(successes, episodes)
    n, m = _cell(results[0].job)
    measurement = Measurement(n, m, successes / episodes, low, high, episodes)
    means = {
        f"mean_{name}": sum(getattr(result, name) for result in results) / episodes
        for name in ("steps", "first_q", "discounted_return")
    }
    return {**asdict(measurement), **means, "crashes": sum(result.crashed for result in results)}


def format_table(report: dict[str, Any]) -> str:
    """The cells as a table for people."""
    lines = [f"{'N':>5} {'M':>3} {'success':>8}  {'95 % interval':<15} {'episodes':>8} {'steps':>7}"]
    for cell in report["cells"]:
        lines.append(
            f"{cell['num_candidates']:>5} {cell['num_steps']:>3} {cell['success']:>8.1%}  "
            f"{cell['low']:6.1%} - {cell['high']:6.1%} {cell['episodes']:>8} {cell['mean_steps']:>7.1f}"
        )
    return "\n".join(lines)


def main() -> None:
    try:
        report = evaluate(tyro.cli(EvaluateConfig))
    except KeyboardInterrupt:
        raise SystemExit("interrupted") from None
    except (CheckpointError, ValueError) as error:
        raise SystemExit(f"sorl-evaluate: {error}") from None
    print(format_table(report))
    print(f"{report['task']}, seeds from {report['first_seed']}, {report['seconds']:.0f} s")
