"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table with one line per row."""
    names = list(header)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def budget_table(
    rates: Mapping[tuple[int, int], Mapping[str, Any]],
    num_candidates: Iterable[int],
    num_steps: Iterable[int],
    best: tuple[int, int],
) -> str:
    """Success rates by budget, one line per M and one column per N; the best budget is bold.

    Args:
        rates: (N, M) -> a row with success, low and high, in [0, 1].
    """
    columns = list(num_candidates)
    return table(
        ["M", *(f"N = {n}" for n in columns)],
        ([m, *(rate_cell(rates.get((n, m)), bold=(n, m) == best) for n in columns)] for m in num_steps),
    )


def rate_cell(row: Mapping[str, Any] | None, bold: bool = False) -> str:
    """ "96 [86, 99]" in per cent, from success, low and high; "not run" for None."""
    if row is None:
        return "not run"
    mark = "**" if bold else ""
    return f"{mark}{100 * row['success']:.0f}{mark} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"
