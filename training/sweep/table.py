"""The table of a sweep: success of every setting over its seeds, as text, CSV and JSON.

The unit of repetition is the training seed, so the interval is Student's t of the runs' success rates. Runs that agree
by chance, such as several at 0 %, would make it empty, so it is never narrower than Wilson's interval of all episodes
together. With one seed, Wilson's interval stands alone.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from sorl_client.statistics import wilson_interval

from training.files import atomic_path
from training.sweep.plan import Run

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

NOTE = (
    "Success in %, mean over seeds [95 % interval]: Student's t over seeds, at least as wide as Wilson's of all "
    "episodes together; one seed: Wilson's."
)


@dataclass(frozen=True)
class Row:
    """One setting at one cell. Rates are in [0, 1]; nan if no run is finished."""

    task: str
    setting: str
    first_seed: int
    num_candidates: int
    num_steps: int
    episodes: int
    """Episodes per run."""
    runs: int
    """Number of finished runs."""
    planned: int
    success: float
    low: float
    high: float
    least: float
    """The lowest success of a run."""
    greatest: float
    seeds: tuple[int, ...]
    """Training seeds of the finished runs."""
    successes: tuple[float, ...]
    """Success of each finished run."""


def make_rows(runs: Sequence[Run], results: dict[str, dict[str, Any]]) -> list[Row]:
    """One row per setting and cell, in the plan's order.

    Args:
        runs: the plan.
        results: run name -> its result.json, for finished runs.
    """
    rows = []
    for (task, setting), group in groupby(runs, key=lambda run: (run.task, run.setting)):
        members = list(group)
        finished = [(run.config.seed, results[run.name]) for run in members if run.name in results]
        for evaluation in members[0].evaluations:
            for first_seed, episodes, n, m in evaluation.cells():
                rates = {seed: _rate(result, first_seed, n, m) for seed, result in finished}
                mean, low, high = estimate(list(rates.values()), episodes)
                rows.append(
                    Row(
                        task=task,
                        setting=setting,
                        first_seed=first_seed,
                        num_candidates=n,
                        num_steps=m,
                        episodes=episodes,
                        runs=len(rates),
                        planned=len(members),
                        success=mean,
                        low=low,
                        high=high,
                        least=min(rates.values(), default=math.nan),
                        greatest=max(rates.values(), default=math.nan),
                        seeds=tuple(rates),
                        successes=tuple(rates.values()),
                    )
                )
    return rows


def _rate(result: dict[str, Any], first_seed: int, n: int, m: int) -> float:
    rate: float = next(
        cell["success"]
        for report in result["evaluations"]
        if report["first_seed"] == first_seed
        for cell in report["cells"]
        if (cell["num_candidates"], cell["num_steps"]) == (n, m)
    )
    return rate


def estimate(rates: Sequence[float], episodes: int) -> tuple[float, float, float]:
    """Mean of the runs' success rates and its 95 % interval, as the module's docstring defines it; nan without runs."""
    from scipy.stats import t as student

    if not rates:
        return math.nan, math.nan, math.nan
    mean, total = fmean(rates), episodes * len(rates)
    low, high = wilson_interval(round(mean * total), total)
    if len(rates) > 1:
        half = float(student.ppf(0.975, len(rates) - 1)) * stdev(rates) / math.sqrt(len(rates))
        low, high = max(0.0, min(low, mean - half)), min(1.0, max(high, mean + half))
    return mean, low, high


def format_table(rows: Sequence[Row], width: int = 120) -> str:
    """The table as text: a block per task and first seed, a line per setting, a column per cell."""
    blocks = []
    for (task, first_seed, episodes), group in groupby(
        sorted(rows, key=_block_order(rows)), key=lambda row: (row.task, row.first_seed, row.episodes)
    ):
        members = list(group)
        title = f"{task}, {episodes} episodes a run, seeds from {first_seed}"
        blocks.append("\n".join([title, *_lines(members, width)]))
    return "\n\n".join([*blocks, NOTE])


def _block_order(rows: Sequence[Row]) -> Any:
    """Sort key: blocks in the order of their first rows."""
    order = list(dict.fromkeys((row.task, row.first_seed, row.episodes) for row in rows))
    return lambda row: order.index((row.task, row.first_seed, row.episodes))


def _lines(rows: Sequence[Row], width: int) -> list[str]:
    cells = list(dict.fromkeys((row.num_candidates, row.num_steps) for row in rows))
    settings = list(dict.fromkeys(row.setting for row in rows))
    by_place = {(row.setting, row.num_candidates, row.num_steps): row for row in rows}
    name_width, cell_width = max(map(len, ("setting", *settings))), 16
    columns = max(1, (width - name_width - 6) // cell_width)
    lines = []
    for start in range(0, len(cells), columns):
        shown = cells[start : start + columns]
        heads = "".join(f"{f'N={n} M={m}':>{cell_width}}" for n, m in shown)
        lines.append(f"{'setting':<{name_width}} seeds{heads}")
        for setting in settings:
            row = by_place[setting, *shown[0]]
            texts = "".join(f"{percent(by_place[setting, *cell]):>{cell_width}}" for cell in shown)
            lines.append(f"{setting:<{name_width}} {f'{row.runs}/{row.planned}':>5}{texts}")
    return lines


def percent(row: Row) -> str:
    """ "46 [40, 53]" in per cent; "-" if no run is finished."""
    if not row.runs:
        return "-"
    return f"{100 * row.success:.0f} [{100 * row.low:.0f}, {100 * row.high:.0f}]"


def write_csv(path: Path, kind: type[DataclassInstance], rows: Sequence[DataclassInstance]) -> None:
    """Write rows of dataclass `kind` as CSV. Items of lists are separated by spaces; nan is empty."""
    names = [field.name for field in fields(kind)]
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_text(getattr(row, name)) for name in names] for row in rows)


def _text(value: Any) -> Any:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "" if value != value else value


def as_json(row: DataclassInstance) -> dict[str, Any]:
    """The row's fields by name; None for nan, which JSON does not have."""
    values = {field.name: getattr(row, field.name) for field in fields(row)}
    return {name: None if value != value else value for name, value in values.items()}
