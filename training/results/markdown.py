"""Markdown's tables and pictures, and the rows that a section is about."""

from __future__ import annotations

from collections.abc import Iterable

from training.results.measurements import Measurements
from training.results.record import Row
from training.results.tables import Tables


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table of `rows`."""
    names = list(header)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def figure(measurements: Measurements, name: str, text: str) -> str:
    """The picture of that name, or nothing when it was not drawn."""
    drawn = (measurements.folder / f"{name}.png").exists()
    return f"![{text}]({measurements.plan.task}/{name}.png)" if drawn else ""


def cells(tables: Tables, label: str, seeds: str, select: str) -> list[Row]:
    """A policy's rows of the table of cells, on selection or report seeds, under one rule."""
    kind = (label, seeds, select)
    return [row for row in tables["cells"] if (row["label"], row["seeds"], row["select"]) == kind]


def budget(row: Row) -> tuple[int, int]:
    """(N, M) of a row."""
    return row["num_candidates"], row["num_steps"]
