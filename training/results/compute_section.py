"""The page's section on success over compute: which policy pays best."""

from __future__ import annotations

from training.reporting import p_value, rate, table
from training.results.measurements import Measurements
from training.results.record import Row
from training.results.tables import Tables

RULE = (
    "Which policy pays best: the one of the highest success at its best cell; of those that the same episodes do not "
    "separate from it, the one of the largest area. The area is the mean, over log(N x M) from 1 to {most}, of the "
    "highest success among the cells of no more compute. All on selection seeds. A chunk's compute serves several "
    "ticks, so chunks are compared with chunks."
)


def compute_section(tables: Tables, measurements: Measurements) -> str:
    """The section, as Markdown; "" where no grid is complete and begins with (1, 1)."""
    rows = tables["compute"]
    if not rows:
        return ""
    protocol = measurements.plan.protocol
    most = max(protocol.num_candidates) * max(protocol.num_steps)
    shown = (
        [row["label"], f"({row['num_candidates']}, {row['num_steps']})", rate(row), f"{row['area']:.3f}"]
        for row in rows
    )
    parts = ["## Success over compute", RULE.format(most=most), table(["", "best cell", "its success", "area"], shown)]
    for horizon in sorted({row["action_horizon"] for row in rows}):
        rivals = [row for row in rows if row["action_horizon"] == horizon]
        if len(rivals) > 1:
            parts.append(_verdict(rivals, horizon))
    return "\n\n".join(parts)


def _verdict(rivals: list[Row], horizon: int) -> str:
    kind = "single actions" if horizon == 1 else f"chunks of {horizon} actions"
    best = next(row["label"] for row in rivals if row["pays_best"])
    pairs = "; ".join(
        f"{row['top']} alone solved {row['only_top']}, {row['label']} alone {row['only_this']} of {row['episodes']} "
        f"({p_value(row['p_value'])})"
        for row in rivals
        if row["label"] != row["top"]
    )
    return f"Of {kind}, **{best}** pays best: at their best cells, {pairs}."
