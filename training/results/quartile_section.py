"""The page's part on the upper quartile of Q: a choice below the top, where best-of-N over-optimises the critic."""

from __future__ import annotations

from training.reporting import rate, table
from training.results.measurements import Measurements
from training.results.protocol import Cell
from training.results.record import Row
from training.results.tables import Tables, budget, cells

AGAINST = {"holds": "better than", "reversed": "worse than", "not separated": "not separated from"}
MEANING = (
    "Where the upper quartile does better than the best, Q errs at the top of its order: of many candidates, those "
    "that it overestimates have its highest values, and best-of-N executes them. A choice below the top is then robust "
    "against an N that is too large. Where it also does better than one candidate, Q is worth choosing by; where it "
    "does not, the choice only undoes harm that choosing did.\n\n"
    "This is no rule of the service, which executes the highest Q. It does not show that the upper quartile is better "
    "in general: each policy is one training run, and these budgets were named because best-of-N failed there on "
    "selection seeds. Nor does it ask for an N this large: the best cell, last column, has fewer candidates."
)


def quartile_part(tables: Tables, measurements: Measurements) -> str:
    """The part, as Markdown; "" if the protocol has no quartile cells."""
    protocol = measurements.plan.protocol
    if not protocol.quartile_cells:
        return ""
    lines, readings = [], []
    for policy in tables["policies"]:
        found = {
            Cell(*budget(row), row["select"]): rate(row)
            for rule in ("best", "upper-quartile")
            for row in cells(tables, policy["label"], "report", rule)
        }
        best = (policy["best_num_candidates"], policy["best_num_steps"])
        for n, m in protocol.quartile_cells:
            shown = [Cell(n, m), Cell(n, m, "upper-quartile"), Cell(1, m), Cell(*best)]
            lines.append([policy["label"], f"({n}, {m})", *(found.get(cell, "not run") for cell in shown)])
            lines[-1][-1] += f" at {Cell(*best)}"
            readings += _reading(tables["claims"], policy["label"], Cell(n, m, "upper-quartile"))
    body = table(["policy", "(N, M)", "highest Q", "upper quartile", "one candidate", "best cell"], lines)
    return (
        f"A choice below the top, {protocol.report.episodes} report episodes: executing the candidate at the upper "
        "quartile of Q, rank N // 4 in descending order counted from 0, in place of the one of highest Q. One "
        "candidate is no choice at all. Differences and tests are among the claims.\n\n"
        + "\n\n".join(part for part in (body, "\n".join(readings), MEANING) if part)
    )


def _reading(claims: list[Row], label: str, cell: Cell) -> list[str]:
    """One bullet on a cell of one policy; none if a side of its claims was not run."""
    rows = {row["b"]: row for row in claims if (row["label"], row["a"]) == (label, str(cell))}
    best, one = (rows.get(str(Cell(n, cell.num_steps))) for n in (cell.num_candidates, 1))
    if best is None or one is None:
        return []
    return [
        f"- {label}, {best['b']}: **{AGAINST[best['verdict']]} the best**, {AGAINST[one['verdict']]} one candidate. "
        f"The upper quartile alone solved {best['only_a']}, the best alone {best['only_b']} of {best['episodes']} "
        "paired episodes."
    ]
