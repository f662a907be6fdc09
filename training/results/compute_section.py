"""The page's section on success over compute: which policy pays best."""

from __future__ import annotations

from training.reporting import p_value, rate, table
from training.results.measurements import Measurements
from training.results.plan import Subject
from training.results.record import Row
from training.results.tables import Tables, budget, cells, paired_best

RULE = (
    "Which policy pays best: the one of the highest success at its best cell; of those that the same episodes do not "
    "separate from it, the one of the largest area. The area is the mean, over log(N x M) from 1 to {most}, of the "
    "highest success among the cells of no more compute. All on selection seeds. A chunk's compute serves several "
    "ticks, so chunks are compared with chunks."
)


def compute_section(tables: Tables, measurements: Measurements) -> str:
    """The section, as Markdown; "" where no grid is complete and begins with (1, 1)."""
    rows = _rows(tables)
    if not rows:
        return ""
    protocol = measurements.plan.protocol
    most = max(protocol.num_candidates) * max(protocol.num_steps)
    shown = (
        [row["label"], f"({row['num_candidates']}, {row['num_steps']})", rate(row), f"{row['area']:.3f}"]
        for row in rows
    )
    parts = ["## Success over compute", RULE.format(most=most), table(["", "best cell", "its success", "area"], shown)]
    for horizon in sorted({row["horizon"] for row in rows}):
        rivals = [row for row in rows if row["horizon"] == horizon]
        if len(rivals) > 1:
            parts.append(_verdict(rivals, horizon, measurements))
    return "\n\n".join(parts)


def _rows(tables: Tables) -> list[Row]:
    """The best cell on selection seeds of each policy with an area, with that and its action horizon."""
    rows = []
    for policy in tables["policies"]:
        best = (policy["best_num_candidates"], policy["best_num_steps"])
        for row in cells(tables, policy["label"], "selection", "best"):
            if policy["area"] is not None and budget(row) == best:
                rows.append(row | {"area": policy["area"], "horizon": int(policy.get("action_horizon", 1))})
    return rows


def _verdict(rivals: list[Row], horizon: int, measurements: Measurements) -> str:
    subjects: dict[str, Subject] = {subject.label: subject for subject in measurements.plan.subjects}
    top = max(rivals, key=lambda row: (row["success"], row["area"]))
    tied, lines = [top], []
    for row in rivals:
        if row is top:
            continue
        pair = paired_best(measurements, subjects[top["label"]], subjects[row["label"]])
        if pair.verdict != "holds":
            tied.append(row)
        lines.append(
            f"{top['label']} alone solved {pair.only_a}, {row['label']} alone {pair.only_b} of {pair.episodes} "
            f"({p_value(pair.p_value)})"
        )
    best = max(tied, key=lambda row: row["area"])
    kind = "single actions" if horizon == 1 else f"chunks of {horizon} actions"
    return f"Of {kind}, **{best['label']}** pays best: at their best cells, {'; '.join(lines)}."
