"""Plots of success over steps, candidates, latency and updates.

Each function draws to `path` and returns True, or returns False if there is no data.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from training.plotting import (
    MARKERS,
    Plot,
    dodge,
    doubling_axis,
    draw_rates,
    milliseconds_axis,
    ordered_color,
    series_style,
    success_axis,
    updates_axis,
)
from training.results.captions import selection_note
from training.results.measurements import Measurements
from training.results.record import Row
from training.results.tables import Tables, budget, cells

CANDIDATES = "candidates N"
STEPS = "steps M"
LABEL_GAP = 0.08
"""Labelled points of the front differ in success by at least this much: closer labels would overlap."""


def by_steps(tables: Tables, measurements: Measurements, path: Path) -> bool:
    """Success over M, one line per N."""
    return _by_budget(tables, measurements, path, ("num_steps", STEPS), ("num_candidates", "N"))


def by_candidates(tables: Tables, measurements: Measurements, path: Path) -> bool:
    """Success over N, one line per M."""
    return _by_budget(tables, measurements, path, ("num_candidates", CANDIDATES), ("num_steps", "M"))


def _by_budget(
    tables: Tables, measurements: Measurements, path: Path, along: tuple[str, str], lines: tuple[str, str]
) -> bool:
    """One panel per policy: success over one side of the budget, one line per value of the other.

    Args:
        along: field and label of the horizontal axis.
        lines: field and label of the lines.
    """
    grids = _grids(tables)
    if not grids:
        return False
    with Plot(path, len(grids), selection_note(tables["policies"], measurements)) as panels:
        for axes, (label, rows) in zip(panels, grids.items(), strict=True):
            series = _split(rows, lines[0])
            for index, (value, mine) in enumerate(series.items()):
                draw_rates(
                    axes,
                    [row[along[0]] for row in mine],
                    mine,
                    dodge(index, len(series)),
                    color=ordered_color(index, len(series)),
                    marker=MARKERS[index % len(MARKERS)],
                    label=str(value),
                )
            axes.set_title(label)
            doubling_axis(axes, [row[along[0]] for row in rows], along[1])
            success_axis(axes)
        panels[-1].legend(title=lines[1], loc="upper left", bbox_to_anchor=(1, 1))
    return True


def by_latency(tables: Tables, measurements: Measurements, path: Path) -> bool:
    """One point per cell, and the front: the highest success at a latency or below."""
    times = {
        (row["label"], int(row["num_candidates"]), int(row["num_steps"])): float(row["p50_ms"])
        for row in tables["latency"]
    }
    timed = {
        label: [(times[label, *budget(row)], row) for row in rows if (label, *budget(row)) in times]
        for label, rows in _grids(tables).items()
    }
    timed = {label: points for label, points in timed.items() if points}
    if not timed:
        return False
    engines = sorted({f"{row['engine']}, {row['threads']} thread, {row['machine']}" for row in tables["latency"]})
    note = (
        "Line: the most success at a latency or below, (N, M) named; a maximum over cells. "
        f"Latency: median, in process, one observation, {'; '.join(engines)}. "
        f"{selection_note(tables['policies'], measurements)}"
    )
    steps = sorted({row["num_steps"] for points in timed.values() for _, row in points})
    with Plot(path, len(timed), note) as panels:
        for axes, (label, points) in zip(panels, timed.items(), strict=True):
            _latency_panel(axes, points, steps)
            axes.set_title(label)
        handles = [
            Line2D([], [], linestyle="", marker=MARKERS[index % len(MARKERS)], color=ordered_color(index, len(steps)))
            for index in range(len(steps))
        ]
        panels[-1].legend(handles, map(str, steps), title="M", loc="upper left", bbox_to_anchor=(1, 1))
    return True


def _latency_panel(axes: Axes, points: list[tuple[float, Row]], steps: list[int]) -> None:
    front: list[tuple[float, Row]] = []
    for at, row in sorted(points, key=lambda point: (point[0], -point[1]["success"])):
        index = steps.index(row["num_steps"])
        color, marker = ordered_color(index, len(steps)), MARKERS[index % len(MARKERS)]
        draw_rates(axes, [at], [row], color=color, marker=marker, linestyle="", alpha=0.85)
        if not front or row["success"] > front[-1][1]["success"]:
            front.append((at, row))
    end = max(at for at, _ in points)
    x, y = [*(at for at, _ in front), end], [*(row["success"] for _, row in front), front[-1][1]["success"]]
    axes.step(x, y, where="post", color="0.4", linewidth=0.9, zorder=0)
    named = -1.0
    for at, row in front:
        if row["success"] < named + LABEL_GAP and row is not front[-1][1]:
            continue
        named = row["success"]
        axes.annotate(
            f"({row['num_candidates']}, {row['num_steps']})",
            (at, row["success"]),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            fontsize=7,
        )
    axes.margins(x=0.15)
    milliseconds_axis(axes, "median latency of one request, ms")
    success_axis(axes)


def learning_curves(tables: Tables, measurements: Measurements, path: Path) -> bool:
    """One panel per budget, one line per run."""
    rows = tables["curves"]
    if not rows:
        return False
    budgets = list(dict.fromkeys(map(budget, rows)))
    labels = list(dict.fromkeys(row["label"] for row in rows))
    last = list({row["label"]: row for row in rows}.values())
    with Plot(path, len(budgets), selection_note(last, measurements)) as panels:
        for axes, cell in zip(panels, budgets, strict=True):
            for index, label in enumerate(labels):
                mine = [row for row in rows if row["label"] == label and budget(row) == cell]
                draw_rates(
                    axes,
                    [row["updates"] for row in mine],
                    mine,
                    label=label,
                    **series_style(index),
                )
            axes.set_title(f"N = {cell[0]}, M = {cell[1]}")
            updates_axis(axes)
            success_axis(axes)
        panels[-1].legend(title="run", loc="upper left", bbox_to_anchor=(1, 1))
    return True


def _grids(tables: Tables) -> dict[str, list[Row]]:
    """Label -> grid on selection seeds, for policies that have any of it."""
    grids = {row["label"]: cells(tables, row["label"], "selection", "best") for row in tables["policies"]}
    return {label: rows for label, rows in grids.items() if rows}


def _split(rows: list[Row], by: str) -> dict[int, list[Row]]:
    return {value: [row for row in rows if row[by] == value] for value in sorted({row[by] for row in rows})}
