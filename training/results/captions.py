"""Captions: links to plots, and what a page or plot says of the policies and episodes behind its figures."""

from __future__ import annotations

from training.reporting import duration, layers
from training.results.measurements import Measurements
from training.results.record import Row


def figure(measurements: Measurements, name: str, text: str) -> str:
    """A Markdown image of the plot of that name; "" if it was not drawn."""
    drawn = (measurements.folder / f"{name}.png").exists()
    return f"![{text}]({measurements.plan.task}/{name}.png)" if drawn else ""


def network(row: Row) -> str:
    """ "actor 3 x 256, 2 critics 3 x 256", from a row of the table "policies"."""
    actor, critic = (layers(row[name].split()) for name in ("actor_hidden", "critic_hidden"))
    horizon = int(row.get("action_horizon", 1))
    chunks = "" if horizon == 1 else f", chunks of {horizon} actions, all executed"
    temperature = float(row.get("temperature", 1.0))
    calmer = "" if temperature == 1 else f", temperature {temperature:g}"
    return f"actor {actor}, {row['ensemble_size']} critics {critic}{chunks}{calmer}"


def training(row: Row) -> str:
    """ "120,000 updates in bf16, training seed 0, 1.4 h", from a row of the table "policies"."""
    precision = row["training_precision"] or "unknown precision"
    return (
        f"{row['updates']:,} updates in {precision}, training seed {row['training_seed']}, "
        f"{duration(row['training_seconds'])}"
    )


def conditions(row: Row) -> str:
    """What every figure states of its policy: network, training and engine."""
    return f"{network(row)}; {training(row)}; evaluated by {row['engine']}"


def policies_note(rows: list[Row]) -> str:
    """The conditions of every policy, for a footnote. Network and engine are said once if all policies share them."""
    shared = {network(row) for row in rows} | {row["engine"] for row in rows}
    if len(shared) == 2:
        runs = "; ".join(f"{row['label']}: {training(row)}" for row in rows)
        return f"Networks: {network(rows[0])}; evaluated by {rows[0]['engine']}. {runs}."
    return " ".join(f"{row['label']}: {conditions(row)}." for row in rows)


def selection_note(policies: list[Row], measurements: Measurements) -> str:
    """The footnote of a plot of success rates on selection seeds."""
    seeds = measurements.plan.protocol.selection
    return (
        f"{seeds.episodes} episodes a point, selection seeds {seeds}; bars: 95 % Wilson intervals. "
        f"{policies_note(policies)}"
    )
