"""The page's section on the verifier: does choosing by Q help, is Q right, and do few steps suffice?"""

from __future__ import annotations

from training.reporting import change, number, points, rate, table
from training.results.captions import figure
from training.results.measurements import Measurements
from training.results.quartile_section import quartile_part
from training.results.record import Row
from training.results.tables import Tables, cells


def verifier_section(tables: Tables, measurements: Measurements) -> str:
    """The section, as Markdown."""
    parts = [
        "## Is the verifier real?",
        _rules(tables, measurements),
        figure(measurements, "verifier", "Success of the best, a random and the worst candidate by Q"),
        _values(tables),
        figure(measurements, "values", "Q of the first action against the return of the episode"),
        _over_optimisation(tables),
        figure(measurements, "over-optimisation", "Chosen Q, return and success against candidates"),
        quartile_part(tables, measurements),
        _shortcut(tables),
        figure(measurements, "shortcut-error", "Distance of few-step actions to the finest"),
    ]
    return "\n\n".join(part for part in parts if part)


def _rules(tables: Tables, measurements: Measurements) -> str:
    rules = ("best", "random", "worst")
    lines = []
    for policy in tables["policies"]:
        found = {
            (row["num_candidates"], rule): rate(row)
            for rule in rules
            for row in cells(tables, policy["label"], "selection", rule)
            if row["num_steps"] == policy["best_num_steps"]
        }
        for n in dict.fromkeys(n for n, rule in found if rule != "best"):
            budget = f"({n}, {policy['best_num_steps']})"
            lines.append([policy["label"], budget, *(found.get((n, rule), "not run") for rule in rules)])
    if not lines:
        return "Best, random and worst candidate: not run."
    episodes = measurements.plan.protocol.selection.episodes
    return (
        f"Executing the candidate of highest Q, a random one, or the one of lowest Q; {episodes} selection episodes a "
        "cell. The same on report seeds, paired, is among the claims.\n\n"
        + table(["policy", "(N, M)", "highest Q", "random", "lowest Q"], lines)
    )


def _values(tables: Tables) -> str:
    rows = tables["values"]
    if not rows:
        return "Q against returns: not run."
    body = table(
        [
            "policy",
            "(N, M)",
            "Q, first action",
            "return",
            "gap, first action",
            "gap, all actions",
            "correlation",
            "separation",
        ],
        (
            [
                row["label"],
                f"({row['num_candidates']}, {row['num_steps']})",
                number(row["mean_first_q"]),
                number(row["mean_discounted_return"]),
                _gap(row, "first_gap"),
                _gap(row, "mean_gap"),
                number(row["correlation"]),
                number(row["separation"]),
            ]
            for row in rows
        ),
    )
    return (
        f"Q of executed actions against the discounted returns that followed, {rows[0]['episodes']} report episodes. "
        "Gaps, Q minus return, are over successes alone, since a time-out cuts the return off. Correlation is of first "
        "Q and return over all episodes; separation is the probability that a success began with a higher Q than a "
        f"failure (0.5 is chance).\n\n{body}"
    )


def _gap(row: Row, name: str) -> str:
    return "-" if row[name] is None else change(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _over_optimisation(tables: Tables) -> str:
    lines = []
    for row in tables["optimisation"]:
        q, returns = (
            change(row[f"{name}_change"], row[f"{name}_change_low"], row[f"{name}_change_high"])
            for name in ("first_q", "discounted_return")
        )
        success = points(row["success_change"], row["success_change_low"], row["success_change_high"])
        lines.append(
            f"- {row['label']}: **{row['over_optimisation']}** from {row['from']} to {row['to']}, {row['episodes']} "
            f"paired report episodes: Q of the first action {q}, return {returns}, success {success}."
        )
    return (
        "Over-optimisation: seen where more candidates raise the chosen Q and lower success, both beyond their "
        "intervals; not seen where success rises.\n\n" + ("\n".join(lines) or "Not run.")
    )


def _shortcut(tables: Tables) -> str:
    rows = tables["shortcut"]
    if not rows:
        return "Shortcut error: not run."
    finest = rows[0]["finest"]
    body = table(
        ["policy", "M", f"to M = {finest}, same noise", f"two of M = {finest}, other noise"],
        (
            [row["label"], row["num_steps"], number(float(row["to_finest"]), 4), number(float(row["redraw"]), 4)]
            for row in rows
        ),
    )
    return (
        f"Shortcut error: distance of the M-step action to the one of {finest} steps from the same noise, root mean "
        f"square over {rows[0]['states']} visited states and action dimensions, actions in [-1, 1]. Beside it the "
        f"distance of two actions of {finest} steps from different noise.\n\n{body}"
    )
