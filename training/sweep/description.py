"""The description of a sweep, a TOML file:

tasks = ["pointmaze-medium-navigate-singletask-task1-v0"]
seeds = [0, 1, 2]
updates = 20000

[settings]                  # of every run; any setting of sorl-train
hidden = [128, 128, 128]
learning_rate = 3e-4

[grid]                      # every combination of these is run
q_loss_coef = [300, 1000]
q_agg = ["mean", "min"]

# In place of the grid: single changes, each compared with the plain settings seed by seed.
# [[variants]]
# shared_optimizer = true

[[evaluate]]                # any number of them; fields as in sorl-evaluate
num_candidates = [1, 2, 8]
num_steps = [1, 2, 4]
episodes = 50
first_seed = 10000
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.config import TrainConfig
from training.sweep.errors import SettingError, SweepError
from training.sweep.plan import Evaluation, Sweep
from training.sweep.settings import check_names, convert, known_settings

KEYS = {"tasks", "seeds", "updates", "settings", "grid", "variants", "evaluate"}
# Settings that the sweep itself decides -> what to write instead.
RESERVED = {"task": "tasks", "seed": "seeds", "run_dir": "--out"}


def read_description(path: Path) -> dict[str, Any]:
    """The file's tables, unchecked.

    Raises:
        SweepError: the file does not exist or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SweepError(f"{path}: {error}") from None


def make_sweep(description: Mapping[str, Any]) -> Sweep:
    """The sweep of a `description` that is structured like the file above.

    Raises:
        UnknownName: a key or setting does not exist.
        SettingError: a value does not fit its field, or is given twice.
    """
    check_names("sweep", description, KEYS)
    settings, grid = _table("settings", description), _table("grid", description)
    variants = _tables("variants", description)
    if "updates" in description:
        if "updates" in settings or "updates" in grid:
            raise SettingError("updates is set at the top and again under settings or grid")
        settings = {**settings, "updates": description["updates"]}
    for where, names in (("settings", settings), ("grid", grid), *(("variants", variant) for variant in variants)):
        for name in names.keys() & RESERVED.keys():
            raise SettingError(f"{where}: {name} is set by the sweep; use {RESERVED[name]}")
        check_names(where, names, known_settings(TrainConfig, without=RESERVED))
    fields = convert(Sweep, "sweep", {key: description[key] for key in ("tasks", "seeds") if key in description})
    if "tasks" not in fields:
        raise SettingError("tasks: at least one is needed")
    if "evaluate" in description:
        fields["evaluations"] = _evaluations(_tables("evaluate", description))
    return Sweep(
        settings=convert(TrainConfig, "settings", settings),
        grid=_grid(grid),
        variants=tuple(convert(TrainConfig, "variants", variant) for variant in variants),
        **fields,
    )


def _table(name: str, description: Mapping[str, Any]) -> dict[str, Any]:
    table = description.get(name, {})
    if not isinstance(table, dict):
        raise SettingError(f"{name} must be a table, [{name}], got {table!r}")
    return table


def _grid(table: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    grid = {}
    for name, values in table.items():
        if not isinstance(values, list):
            raise SettingError(f"grid: {name} must be a list of values, got {values!r}")
        grid[name] = tuple(convert(TrainConfig, "grid", {name: value})[name] for value in values)
    return grid


def _tables(name: str, description: Mapping[str, Any]) -> list[dict[str, Any]]:
    tables = description.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SettingError(f"{name} must be tables, [[{name}]], got {tables!r}")
    return tables


def _evaluations(tables: list[dict[str, Any]]) -> tuple[Evaluation, ...]:
    for table in tables:
        check_names("evaluate", table, known_settings(Evaluation))
    return tuple(Evaluation(**convert(Evaluation, "evaluate", table)) for table in tables)
