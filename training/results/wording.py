"""How numbers become words: the same rounding on pages and plots, and no sentence that its numbers do not make."""

from __future__ import annotations

import math
from collections.abc import Sequence

from training.results.measurements import Measurements
from training.results.record import Row


def percent(share: float) -> str:
    """0.91 as "91.0 %"."""
    return f"{100 * share:.1f} %"


def rate(row: Row) -> str:
    """ "91.0 % [86.2, 94.2]" """
    return f"{percent(row['success'])} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def points(difference: float, low: float, high: float) -> str:
    """A difference of shares in percentage points: "+14.5 points [+6.1, +22.5]"."""
    return f"{100 * difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


def change(value: float, low: float, high: float) -> str:
    """A mean with its interval: "+1.25 [+0.90, +1.60]"."""
    return f"{value:+.2f} [{_signed(low)}, {_signed(high)}]"


def number(value: float | None, digits: int = 2) -> str:
    """Rounded; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def p_value(p: float) -> str:
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.4f}"


def duration(seconds: float | None) -> str:
    """ "1.4 h", "12 min", "40 s"; "unknown time" where it was not recorded."""
    if seconds is None:
        return "unknown time"
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def layers(widths: Sequence[object]) -> str:
    """Hidden widths: "4 x 512", or each where they differ."""
    same = len(set(widths)) == 1
    return f"{len(widths)} x {widths[0]}" if same else f"({', '.join(map(str, widths))})"


def network(row: Row) -> str:
    """ "actor 3 x 256, 2 critics 3 x 256" from a row of the table of policies."""
    actor, critic = (layers(row[name].split()) for name in ("actor_hidden", "critic_hidden"))
    return f"actor {actor}, {row['ensemble_size']} critics {critic}"


def training(row: Row) -> str:
    """ "120,000 updates in bf16, training seed 0, 1.4 h" """
    precision = row["training_precision"] or "unknown precision"
    return (
        f"{row['updates']:,} updates in {precision}, training seed {row['training_seed']}, "
        f"{duration(row['training_seconds'])}"
    )


def conditions(row: Row) -> str:
    """What every figure carries of its policy."""
    return f"{network(row)}; {training(row)}; evaluated by {row['engine']}"


def policies_note(rows: list[Row]) -> str:
    """The conditions of every policy, for a figure's footnote; those that all share are said once."""
    shared = {network(row) for row in rows} | {row["engine"] for row in rows}
    if len(shared) == 2:
        runs = "; ".join(f"{row['label']}: {training(row)}" for row in rows)
        return f"Networks: {network(rows[0])}; evaluated by {rows[0]['engine']}. {runs}."
    return " ".join(f"{row['label']}: {conditions(row)}." for row in rows)


def selection_note(policies: list[Row], measurements: Measurements) -> str:
    """The footnote of a figure of rates on the selection seeds."""
    seeds = measurements.plan.protocol.selection
    return (
        f"{seeds.episodes} episodes a point, selection seeds {seeds}; bars: 95 % Wilson intervals. "
        f"{policies_note(policies)}"
    )


def _signed(value: float) -> str:
    return f"{value:+.2f}" if math.isfinite(value) else "unbounded"
