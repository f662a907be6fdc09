"""The page's section on success over numbers of steps and candidates."""

from __future__ import annotations

from training.reporting import budget_table, rate, rate_cell, table
from training.results.captions import figure
from training.results.measurements import Measurements
from training.results.protocol import Protocol
from training.results.record import Row
from training.results.tables import Tables, budget, cells


def grid_section(tables: Tables, measurements: Measurements) -> str:
    """The section, as Markdown."""
    protocol = measurements.plan.protocol
    parts = [
        "## Success over steps and candidates",
        f"Per cent [95 % interval], {protocol.selection.episodes} episodes a cell, selection seeds "
        f"{protocol.selection}.",
    ]
    for policy in tables["policies"]:
        rows = cells(tables, policy["label"], "selection", "best")
        parts.append(f"### {policy['label']}")
        parts.append(_grid(policy, rows, protocol) if rows else "Not run.")
        parts.append(_equal_compute(rows, protocol))
    parts.append(figure(measurements, "success-by-steps", "Success against steps, a line for every N"))
    parts.append(figure(measurements, "success-by-candidates", "Success against candidates, a line for every M"))
    return "\n\n".join(part for part in parts if part)


def _grid(policy: Row, rows: list[Row], protocol: Protocol) -> str:
    by_budget = {budget(row): row for row in rows}
    best = (policy["best_num_candidates"], policy["best_num_steps"])
    body = budget_table(by_budget, protocol.num_candidates, protocol.num_steps, best)
    if best not in by_budget:
        return body
    looks = f" and {policy['checkpoints']} checkpoints" if policy["checkpoints"] > 1 else ""
    return (
        f"{body}\n\nBest cell: N = {best[0]}, M = {best[1]} with {rate(by_budget[best])}. It is a maximum over "
        f"{len(rows)} cells{looks} on selection seeds, not a result: the headline above is."
    )


def _equal_compute(rows: list[Row], protocol: Protocol) -> str:
    """The grid with cells of equal N x M in one line; "" where no two cells share it."""
    by_budget = {budget(row): row for row in rows}
    lines = []
    for product in sorted({n * m for n, m in by_budget}):
        line = [by_budget.get((product // m, m)) if product % m == 0 else None for m in protocol.num_steps]
        if sum(row is not None for row in line) > 1:
            lines.append([product, *("" if row is None else rate_cell(row) for row in line)])
    if not lines:
        return ""
    return "Equal actor compute, N x M network rows:\n\n" + table(
        ["N x M", *(f"M = {m}" for m in protocol.num_steps)], lines
    )
