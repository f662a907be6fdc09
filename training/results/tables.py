"""Tables of a task, made from its measurements. Every number on its page and in its plots is a field of one row.

Each is a CSV file in the task's folder. A table holds complete results only; `Measurements.not_run` lists the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sorl_client.statistics import wilson_interval

from training.episode_table import EpisodeRow
from training.reporting import Paired, area_over_compute, correlation, mean_interval, separation
from training.results.measurements import Measurements
from training.results.plan import Subject
from training.results.protocol import Cell
from training.results.record import Row, write_table

Tables = dict[str, list[Row]]
"""Name -> rows."""
NONE = (None, None, None)
CONDITIONS = (
    "actor_hidden",
    "critic_hidden",
    "ensemble_size",
    "training_precision",
    "training_seed",
    "training_seconds",
    "engine",
)


def build_tables(measurements: Measurements) -> Tables:
    """All tables, by name."""
    builders: dict[str, Callable[[Measurements, Subject], list[Row]]] = {
        "policies": _policies,
        "cells": _cells,
        "claims": _claims,
        "values": _values,
        "optimisation": _optimisation,
        "latency": lambda m, subject: _stored(m, subject, "latency"),
        "shortcut": lambda m, subject: _stored(m, subject, "shortcut"),
    }
    tables = {
        name: [row for subject in measurements.plan.subjects for row in build(measurements, subject)]
        for name, build in builders.items()
    }
    tables["compute"] = _compute(measurements)
    tables["curves"] = _curves(measurements)
    return tables


def write_tables(tables: Tables, folder: Path) -> None:
    """Write each table to NAME.csv in `folder`."""
    for name, rows in tables.items():
        write_table(folder / f"{name}.csv", rows)


def _policies(measurements: Measurements, subject: Subject) -> list[Row]:
    record = measurements.record_of(subject)
    best = measurements.best(subject)
    return [
        {
            "label": subject.label,
            **{key: _plain(value) for key, value in record.facts.items()},
            "checkpoints": subject.checkpoints,
            "best_num_candidates": best.num_candidates if best else None,
            "best_num_steps": best.num_steps if best else None,
        }
    ]


def _compute(measurements: Measurements) -> list[Row]:
    """Success over compute of each policy with a complete grid that has an area.

    Each is paired with `top`, the one of the highest success of its action horizon. Of those that this does not
    separate from `top`, the one of the largest area pays best.
    """
    seeds = measurements.plan.protocol.selection
    rows: list[Row] = []
    outcomes: dict[str, list[int]] = {}
    for subject in measurements.plan.subjects:
        record, best = measurements.record_of(subject), measurements.best(subject)
        if best is None:
            continue
        grid = {cell: _summary(cell, record.rows(cell, seeds) or []) for cell in measurements.plan.protocol.grid()}
        area = area_over_compute({(cell.num_candidates, cell.num_steps): row["success"] for cell, row in grid.items()})
        if area is None:
            continue
        shown = ("num_candidates", "num_steps", "episodes", "success", "low", "high")
        horizon = int(record.facts.get("action_horizon", 1))
        rows.append(
            {"label": subject.label, "action_horizon": horizon, "area": area}
            | {name: grid[best][name] for name in shown}
        )
        outcomes[subject.label] = [row.success for row in record.rows(best, seeds) or []]
    for horizon in {row["action_horizon"] for row in rows}:
        rivals = [row for row in rows if row["action_horizon"] == horizon]
        top = max(rivals, key=lambda row: (row["success"], row["area"]))
        for row in rivals:
            pair = Paired.of(outcomes[top["label"]], outcomes[row["label"]])
            row |= {"top": top["label"], "only_top": pair.only_a, "only_this": pair.only_b, "p_value": pair.p_value}
            row["verdict"] = pair.verdict
        pays_best = max((row for row in rivals if row["verdict"] != "holds"), key=lambda row: row["area"])
        for row in rivals:
            row["pays_best"] = int(row is pays_best)
    return rows


def _cells(measurements: Measurements, subject: Subject) -> list[Row]:
    record, protocol = measurements.record_of(subject), measurements.plan.protocol
    best = measurements.best(subject)
    wanted = [("selection", cell, protocol.selection) for cell in protocol.grid()]
    if best:
        wanted += [("selection", cell, protocol.selection) for cell in protocol.verifier(best)]
        wanted += [("report", cell, protocol.report) for cell in protocol.reported(best)]
    return [
        {"label": subject.label, "seeds": purpose, **_summary(cell, rows)}
        for purpose, cell, seeds in wanted
        if (rows := record.rows(cell, seeds)) is not None
    ]


def _summary(cell: Cell, rows: list[EpisodeRow]) -> Row:
    successes, episodes = sum(row.success for row in rows), len(rows)
    low, high = wilson_interval(successes, episodes)
    return {
        "select": cell.select,
        "num_candidates": cell.num_candidates,
        "num_steps": cell.num_steps,
        "episodes": episodes,
        "successes": successes,
        "success": successes / episodes,
        "low": low,
        "high": high,
        "mean_steps": sum(row.steps for row in rows) / episodes,
        "mean_first_q": sum(row.first_q for row in rows) / episodes,
        "mean_q": sum(row.mean_q for row in rows) / episodes,
        "mean_discounted_return": sum(row.discounted_return for row in rows) / episodes,
        "crashes": sum(row.crashed for row in rows),
        "worker_seconds": round(sum(row.seconds for row in rows), 1),
    }


def _claims(measurements: Measurements, subject: Subject) -> list[Row]:
    record, protocol = measurements.record_of(subject), measurements.plan.protocol
    best = measurements.best(subject)
    table: list[Row] = []
    for claim in protocol.claims(best) if best else ():
        a, b = (record.rows(side, protocol.report) for side in (claim.a, claim.b))
        if a is None or b is None:
            continue
        pair = Paired.of([row.success for row in a], [row.success for row in b])
        low, high = pair.interval
        table.append(
            {
                "label": subject.label,
                "claim": claim.key,
                "text": claim.text,
                "paper": int(claim.paper),
                "a": str(claim.a),
                "b": str(claim.b),
                "episodes": pair.episodes,
                "success_a": (pair.both + pair.only_a) / pair.episodes,
                "success_b": (pair.both + pair.only_b) / pair.episodes,
                "both": pair.both,
                "only_a": pair.only_a,
                "only_b": pair.only_b,
                "neither": pair.neither,
                "difference": pair.difference,
                "low": low,
                "high": high,
                "p_value": pair.p_value,
                "verdict": pair.verdict,
            }
        )
    return table


def _values(measurements: Measurements, subject: Subject) -> list[Row]:
    """Q of executed actions against the returns that followed, on report seeds. Gaps are over successes only."""
    record, protocol = measurements.record_of(subject), measurements.plan.protocol
    best = measurements.best(subject)
    if best is None:
        return []
    cells = [best, Cell(1, best.num_steps), Cell(protocol.many_candidates, best.num_steps)]
    table: list[Row] = []
    for cell in dict.fromkeys(cells):
        rows = record.rows(cell, protocol.report)
        if rows is None:
            continue
        won = [row for row in rows if row.success]
        q, returns = [row.first_q for row in rows], [row.discounted_return for row in rows]
        first = mean_interval([row.first_q - row.discounted_return for row in won]) if won else NONE
        every = mean_interval([row.mean_q - row.mean_return for row in won]) if won else NONE
        table.append(
            {
                "label": subject.label,
                "num_candidates": cell.num_candidates,
                "num_steps": cell.num_steps,
                "episodes": len(rows),
                "successes": len(won),
                "mean_first_q": sum(q) / len(rows),
                "mean_discounted_return": sum(returns) / len(rows),
                "first_gap": first[0],
                "first_gap_low": first[1],
                "first_gap_high": first[2],
                "mean_gap": every[0],
                "mean_gap_low": every[1],
                "mean_gap_high": every[2],
                "correlation": correlation(q, returns),
                "separation": separation(q, [row.success for row in rows]),
            }
        )
    return table


def _optimisation(measurements: Measurements, subject: Subject) -> list[Row]:
    """Changes of the chosen Q, the return and success from one candidate to many, on the same report episodes."""
    record, protocol = measurements.record_of(subject), measurements.plan.protocol
    best = measurements.best(subject)
    if best is None:
        return []
    one, many = Cell(1, best.num_steps), Cell(protocol.many_candidates, best.num_steps)
    before, after = record.rows(one, protocol.report), record.rows(many, protocol.report)
    if before is None or after is None:
        return []
    pair = Paired.of([row.success for row in after], [row.success for row in before])
    row: Row = {"label": subject.label, "from": str(one), "to": str(many), "episodes": pair.episodes}
    for name in ("first_q", "discounted_return"):
        change = mean_interval([getattr(y, name) - getattr(x, name) for x, y in zip(before, after, strict=True)])
        row |= {f"{name}_change": change[0], f"{name}_change_low": change[1], f"{name}_change_high": change[2]}
    low, high = pair.interval
    q_rises = row["first_q_change_low"] > 0
    outcome = {"reversed": "seen" if q_rises else "not seen", "holds": "not seen", "not separated": "not separated"}
    return [
        row
        | {
            "success_change": pair.difference,
            "success_change_low": low,
            "success_change_high": high,
            "over_optimisation": outcome[pair.verdict],
        }
    ]


def _stored(measurements: Measurements, subject: Subject, name: str) -> list[Row]:
    return [{"label": subject.label, **row} for row in measurements.record_of(subject).table(name)]


def _curves(measurements: Measurements) -> list[Row]:
    protocol = measurements.plan.protocol
    return [
        {
            "label": curve.label,
            "updates": updates,
            "policy_sha256": version,
            **{name: _plain(record.facts[name]) for name in CONDITIONS},
            **_summary(cell, rows),
        }
        for curve in measurements.plan.curves
        for updates, version in curve.points
        if (record := measurements.record(version)) is not None
        for cell in protocol.curve()
        if (rows := record.rows(cell, protocol.selection)) is not None
    ]


def _plain(value: Any) -> Any:
    """A list as text, "512 512 512 512"; other values unchanged."""
    return " ".join(map(str, value)) if isinstance(value, list) else value


def cells(tables: Tables, label: str, seeds: str, select: str) -> list[Row]:
    """A policy's rows of the table "cells", on "selection" or "report" seeds, under one selection rule."""
    kind = (label, seeds, select)
    return [row for row in tables["cells"] if (row["label"], row["seeds"], row["select"]) == kind]


def budget(row: Row) -> tuple[int, int]:
    """(N, M) of a row."""
    return row["num_candidates"], row["num_steps"]
