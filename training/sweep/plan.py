"""`plan`: from a sweep to its runs, tasks x settings x seeds in that order, each with its own folder.

Settings are every combination of a grid, or the plain settings and variants of them, one change at a time.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from training.config import TrainConfig
from training.data import require_files
from training.evaluation import EvaluateConfig
from training.sweep.errors import SettingError, SweepError
from training.tasks import UnknownTask, make_task

MAX_NAME_BYTES = 150  # of a setting's folder name; file systems allow 255


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that every run's policy gets; fields as in `sorl-evaluate`."""

    num_candidates: tuple[int, ...] = (1, 8, 32)
    num_steps: tuple[int, ...] = (1, 2, 4, 8)
    episodes: int = 50
    first_seed: int = 10_000

    def config(self, policy: Path, processes: int) -> EvaluateConfig:
        """The config for `evaluate_policy`. Report and episodes go beside the policy, named by seeds and cells.

        Raises:
            ValueError: a field is out of range.
        """
        stem = f"evaluation-{self.first_seed}-{_digest(self.cells())[:8]}"
        return EvaluateConfig(
            policy,
            num_candidates=self.num_candidates,
            num_steps=self.num_steps,
            episodes=self.episodes,
            first_seed=self.first_seed,
            processes=processes,
            json=policy.with_name(f"{stem}.json"),
            csv=policy.with_name(f"{stem}.csv"),
        )

    def cells(self) -> list[tuple[int, int, int, int]]:
        """(first_seed, episodes, N, M) of each cell."""
        return [(self.first_seed, self.episodes, n, m) for n, m in product(self.num_candidates, self.num_steps)]


@dataclass(frozen=True)
class Sweep:
    """Tasks, seeds, shared settings, a grid or variants of other settings, and evaluations.

    Names in `settings`, `grid` and `variants` are fields of TrainConfig, with values of the fields' types.

    Raises:
        SettingError: something is missing, given twice, or contradictory.
    """

    tasks: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    settings: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    variants: tuple[dict[str, Any], ...] = ()
    """Changes to the plain settings. Each is run beside the plain settings and compared with them seed by seed."""
    evaluations: tuple[Evaluation, ...] = (Evaluation(),)

    def __post_init__(self) -> None:
        for name in ("tasks", "seeds", "evaluations"):
            if not getattr(self, name):
                raise SettingError(f"{name}: at least one is needed")
        if twice := sorted(self.settings.keys() & self.grid.keys()):
            raise SettingError(f"{twice[0]} is set both for all runs and in the grid")
        for name, values in self.grid.items():
            if not values:
                raise SettingError(f"grid: {name} has no values")
        if self.grid and self.variants:
            raise SettingError("grid and variants are both given: a sweep has every combination, or single changes")
        if not all(self.variants):
            raise SettingError("variants: one of them changes nothing; the plain settings are run anyway")
        cells = [(seed, n, m) for evaluation in self.evaluations for seed, _, n, m in evaluation.cells()]
        _require_distinct("evaluate: (first_seed, num_candidates, num_steps)", cells)

    def varied(self) -> list[dict[str, Any]]:
        """The varied settings of each line of the table, in order; {} stands for the plain settings."""
        fields = TrainConfig.__dataclass_fields__
        if self.variants:
            return [{}, *({name: variant[name] for name in fields if name in variant} for variant in self.variants)]
        order = [name for name in fields if name in self.grid]
        return [dict(zip(order, values, strict=True)) for values in product(*(self.grid[name] for name in order))]


@dataclass(frozen=True)
class Run:
    """One training with its evaluations."""

    task: str
    setting: str
    """The varied settings as a folder's name; "default" for the plain settings."""
    varied: dict[str, Any]
    """Its settings from grid or variants."""
    config: TrainConfig
    """Resolved, with absolute paths."""
    evaluations: tuple[Evaluation, ...]

    @property
    def name(self) -> str:
        return f"{self.task}/{self.setting}/seed-{self.config.seed}"

    @property
    def folder(self) -> Path:
        assert self.config.run_dir is not None
        return self.config.run_dir

    @property
    def dataset(self) -> Path:
        assert self.config.dataset is not None
        return self.config.dataset

    def digest(self) -> str:
        """sha256 of everything that determines the result, except the data's content."""
        identity = {key: str(value) for key, value in self.config.identity().items()}
        cells = sorted(cell for evaluation in self.evaluations for cell in evaluation.cells())
        return _digest([identity, self.config.updates, self.config.anneal_updates, cells])


def plan(sweep: Sweep, out: Path, data_dir: Path, cpus: float) -> list[Run]:
    """The runs of `sweep` in the table's order; a pure function of the arguments and the working directory.

    Args:
        sweep: what to run.
        out: each run gets OUT/TASK/SETTING/seed-SEED; the folder's name depends on its own run only.
        data_dir: folder of the datasets, for runs whose settings do not name one.
        cpus: cores per run, for compute threads and evaluation processes; at least one is used.

    Raises:
        SettingError: a value is out of range, or two runs are the same.
    """
    workers = max(1, int(cpus))
    runs = []
    for task, varied, seed in product(sweep.tasks, sweep.varied(), sweep.seeds):
        setting = setting_name(varied)
        try:
            config = TrainConfig(**{**sweep.settings, **varied, "task": task, "seed": seed}).resolved()
            assert config.dataset is not None
            dataset = config.dataset
            if not {"dataset"} & (sweep.settings.keys() | varied.keys()):
                dataset = data_dir / dataset.name
            config = replace(
                config,
                dataset=dataset.absolute(),
                run_dir=(out / task / setting / f"seed-{seed}").absolute(),
                threads=config.threads or workers,
            )
            for evaluation in sweep.evaluations:
                evaluation.config(Path("policy"), workers)
                if max(evaluation.num_steps) > config.denoise_timesteps:
                    raise ValueError(f"--num-steps must be at most denoise_timesteps, {config.denoise_timesteps}")
        except ValueError as error:
            raise SettingError(f"{task}/{setting}/seed-{seed}: {error}") from None
        runs.append(Run(task, setting, varied, config, sweep.evaluations))
    _require_distinct("runs", [run.name for run in runs])
    return runs


def setting_name(varied: dict[str, Any]) -> str:
    """Varied settings as a folder's name: letters, digits and `._+=,-` only, at most `MAX_NAME_BYTES` bytes."""
    name = ",".join(f"{key}={_value_name(value)}" for key, value in varied.items()) or "default"
    if len(name) > MAX_NAME_BYTES:
        name = f"{name[: MAX_NAME_BYTES - 9]}-{_digest(name)[:8]}"
    return name


def _value_name(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(_value_name, value))
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"[^A-Za-z0-9._+-]", "_", text)


def require_inputs(runs: Iterable[Run]) -> None:
    """Check every dataset and make every environment once, before anything starts.

    Raises:
        DatasetError: a dataset or its validation file is missing.
        SweepError: OGBench does not know a task.
    """
    runs = list(runs)
    for dataset in dict.fromkeys(run.dataset for run in runs):
        require_files(dataset)
    for task in dict.fromkeys(run.task for run in runs):
        try:
            make_task(task).close()
        except UnknownTask as error:
            raise SweepError(f"--tasks: {error}") from None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _require_distinct(what: str, values: list[Any]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise SettingError(f"{what}: {value} occurs twice")
        seen.add(value)
