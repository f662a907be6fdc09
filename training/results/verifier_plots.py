"""Plots of the effect of choosing by Q, of Q against returns, and of the shortcut error.

Each function draws to `path` and returns True, or returns False if there is no data.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes

from training.episode_table import EpisodeRow
from training.plotting import MARKERS, Plot, category, dodge, doubling_axis, draw_rates, success_axis
from training.results.captions import policies_note, selection_note
from training.results.measurements import Measurements
from training.results.protocol import Cell
from training.results.record import Row
from training.results.tables import Tables, cells

RULES = {"best": "highest Q", "random": "random", "worst": "lowest Q"}
CANDIDATES = "candidates N"


def rules(tables: Tables, measurements: Measurements, path: Path) -> bool:
    """Success of the best, a random and the worst candidate over N, at the best cell's M."""
    shown: dict[str, dict[str, list[Row]]] = {}
    for policy in tables["policies"]:
        found = {
            rule: [row for row in cells(tables, policy["label"], "selection", rule) if _at_best_steps(row, policy)]
            for rule in RULES
        }
        if found["random"] or found["worst"]:
            shown[f"{policy['label']}, M = {policy['best_num_steps']}"] = found
    if not shown:
        return False
    with Plot(path, len(shown), selection_note(tables["policies"], measurements)) as panels:
        for axes, (title, found) in zip(panels, shown.items(), strict=True):
            for index, (rule, rows) in enumerate(found.items()):
                x = [row["num_candidates"] for row in rows]
                style = {"color": category(index), "marker": MARKERS[index], "label": RULES[rule]}
                draw_rates(axes, x, rows, dodge(index, len(found)), **style)
            axes.set_title(title)
            doubling_axis(axes, [row["num_candidates"] for rows in found.values() for row in rows], CANDIDATES)
            success_axis(axes)
        panels[-1].legend(title="executed", loc="upper left", bbox_to_anchor=(1, 1))
    return True


def values(tables: Tables, measurements: Measurements, path: Path) -> bool:
    """Q of the first action against the episode's return, one point per episode, and the line of equality."""
    seeds = measurements.plan.protocol.report
    shown: list[tuple[str, list[EpisodeRow]]] = []
    for subject in measurements.plan.subjects:
        best = measurements.best(subject)
        for cell in dict.fromkeys([Cell(1, best.num_steps), best] if best else []):
            rows = measurements.record_of(subject).rows(cell, seeds)
            if rows is not None:
                shown.append((f"{subject.label}, (N, M) = {cell}", rows))
    if not shown:
        return False
    note = (
        f"{seeds.episodes} episodes, report seeds {seeds}. On the line Q equals the return; a time-out cuts the return "
        f"off. {policies_note(tables['policies'])}"
    )
    with Plot(path, len(shown), note, columns=2, share=False) as panels:
        for axes, (title, rows) in zip(panels, shown, strict=True):
            _values_panel(axes, rows)
            axes.set_title(title)
    return True


def _values_panel(axes: Axes, rows: list[EpisodeRow]) -> None:
    for index, (name, success) in enumerate((("success", 1), ("failure", 0))):
        mine = [row for row in rows if row.success == success]
        axes.scatter(
            [row.first_q for row in mine],
            [row.discounted_return for row in mine],
            s=16,
            alpha=0.6,
            linewidths=0,
            marker=MARKERS[index],
            color=category(index),
            label=f"{name}: {len(mine)}",
        )
    edges = [value for row in rows for value in (row.first_q, row.discounted_return)]
    axes.plot([min(edges), max(edges)], [min(edges), max(edges)], color="0.5", linewidth=0.8, zorder=0)
    axes.set_xlabel("Q of the first action")
    axes.set_ylabel("discounted return")
    axes.legend()


def over_optimisation(tables: Tables, measurements: Measurements, path: Path) -> bool:
    """Over N, at the best cell's M: above, mean Q of the first action and mean return; below, success."""
    policies = [policy for policy in tables["policies"] if policy["best_num_steps"] is not None]
    if not policies:
        return False
    count = len(policies)
    with Plot(path, 2 * count, selection_note(tables["policies"], measurements), columns=count, share=False) as panels:
        for above, below, policy in zip(panels, panels[count:], policies, strict=False):
            grid = cells(tables, policy["label"], "selection", "best")
            rows = [row for row in grid if _at_best_steps(row, policy)]
            x = [row["num_candidates"] for row in rows]
            above.plot(x, [row["mean_first_q"] for row in rows], "o-", color=category(1), label="Q, first action")
            returns = [row["mean_discounted_return"] for row in rows]
            above.plot(x, returns, "s-", color=category(0), label="discounted return")
            above.set_title(f"{policy['label']}, M = {policy['best_num_steps']}")
            above.set_ylabel("mean over episodes")
            above.legend()
            draw_rates(below, x, rows, color=category(2), marker="^")
            success_axis(below)
            for axes in (above, below):
                doubling_axis(axes, x, CANDIDATES)
    return True


def shortcut_error(tables: Tables, measurements: Measurements, path: Path) -> bool:
    """Distance of M-step actions from finest-grid actions of the same noise. Dashed: between two of different noise."""
    rows = tables["shortcut"]
    if not rows:
        return False
    finest = rows[0]["finest"]
    note = (
        f"Root mean square over {rows[0]['states']} visited states and action dimensions, actions in [-1, 1]. Dashed: "
        f"two actions of M = {finest} from different noise. {policies_note(tables['policies'])}"
    )
    with Plot(path, 1, note) as panels:
        for index, label in enumerate(dict.fromkeys(row["label"] for row in rows)):
            mine = [row for row in rows if row["label"] == label]
            x, y = [int(row["num_steps"]) for row in mine], [float(row["to_finest"]) for row in mine]
            panels[0].plot(x, y, marker=MARKERS[index % len(MARKERS)], color=category(index), label=label)
            panels[0].axhline(float(mine[0]["redraw"]), color=category(index), linestyle="--", linewidth=0.9)
        doubling_axis(panels[0], [int(row["num_steps"]) for row in rows], "steps M")
        panels[0].set_ylabel(f"distance to M = {finest}, action units")
        panels[0].set_ylim(bottom=0)
        panels[0].legend()
    return True


def _at_best_steps(row: Row, policy: Row) -> bool:
    return bool(row["num_steps"] == policy["best_num_steps"])
