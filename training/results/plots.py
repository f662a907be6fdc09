"""`draw_plots`: the plots of a task's page, drawn from its tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from training.results.budget_plots import by_candidates, by_latency, by_steps, learning_curves
from training.results.measurements import Measurements
from training.results.tables import Tables
from training.results.verifier_plots import over_optimisation, rules, shortcut_error, values

PLOTS: dict[str, Callable[[Tables, Measurements, Path], bool]] = {
    "success-by-steps": by_steps,
    "success-by-candidates": by_candidates,
    "success-by-latency": by_latency,
    "learning-curves": learning_curves,
    "verifier": rules,
    "values": values,
    "over-optimisation": over_optimisation,
    "shortcut-error": shortcut_error,
}


def draw_plots(tables: Tables, measurements: Measurements, folder: Path) -> None:
    """Write every plot that has data to `folder` as PNG; remove plots that no longer have any."""
    for name, draw in PLOTS.items():
        path = folder / f"{name}.png"
        if not draw(tables, measurements, path):
            path.unlink(missing_ok=True)
