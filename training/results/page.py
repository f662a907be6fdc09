"""`write_page`: the page of one task in Markdown, written from its tables alone."""

from __future__ import annotations

from pathlib import Path

from training.files import write_text
from training.reporting import duration, number, rate, table
from training.results.captions import conditions, figure
from training.results.claims_section import claims_section, not_reproduced_section
from training.results.compute_section import compute_section
from training.results.grid_section import grid_section
from training.results.measurements import Measurements
from training.results.protocol import PAPER_SUCCESS, REPORT_EPISODES
from training.results.record import Row
from training.results.tables import Tables, budget, cells
from training.results.verifier_section import verifier_section


def write_page(tables: Tables, measurements: Measurements, path: Path) -> None:
    """Write the page to `path`. It links plots and tables in the folder of the same name beside it."""
    write_text(path, render_page(tables, measurements))


def render_page(tables: Tables, measurements: Measurements) -> str:
    """The page as Markdown."""
    sections = [
        _opening(tables, measurements),
        _what_was_run(tables, measurements),
        _headline(tables, measurements),
        grid_section(tables, measurements),
        compute_section(tables, measurements),
        claims_section(tables, measurements),
        verifier_section(tables, measurements),
        _latency(tables, measurements),
        _learning_curves(tables, measurements),
        not_reproduced_section(tables),
        _not_run(measurements),
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _opening(tables: Tables, measurements: Measurements) -> str:
    task = measurements.plan.task
    labels = [row["label"] for row in tables["policies"]]
    verdicts = {(row["text"], row["label"]): row["verdict"] for row in tables["claims"]}
    rows = [["success, report seeds", *(_headline_rate(tables, row) or "not run" for row in tables["policies"])]]
    for text in dict.fromkeys(row["text"] for row in tables["claims"]):
        rows.append([text, *(verdicts.get((text, label), "not run") for label in labels)])
    return (
        f"# {task}\n\nWritten by `sorl-results` from the files in [{task}]({task}), not by hand; the rules are in "
        '[README.md](README.md). Success is the final `info["success"]`. Intervals are 95 %: Wilson\'s for a rate, '
        "Newcombe's for a difference of paired rates, normal for a mean. p-values are of McNemar's exact test, each "
        f"for itself.\n\n{table(['', *labels], rows) if labels else ''}"
    )


def _what_was_run(tables: Tables, measurements: Measurements) -> str:
    protocol = measurements.plan.protocol
    lines = []
    for row in tables["policies"]:
        mine = [cell for cell in tables["cells"] if cell["label"] == row["label"]]
        chosen = f"the best of {row['checkpoints']} checkpoints on selection seeds; " if row["checkpoints"] > 1 else ""
        lines.append(
            f"- **{row['label']}**: {chosen}{conditions(row)} on {row['machine']}; discount {row['discount']:g}; "
            f"{sum(cell['episodes'] for cell in mine):,} episodes, "
            f"{duration(sum(cell['worker_seconds'] for cell in mine))} of worker time, "
            f"{sum(cell['crashes'] for cell in mine)} crashed. "
            f"Policy `{row['policy_sha256'][:12]}`, data `{row['dataset_sha256'][:12] or 'unknown'}`."
        )
    return (
        f"## What was run\n\nSelection seeds {protocol.selection} choose and report seeds {protocol.report} report; "
        "temperature 1 where no other is named, a fresh seed for every (episode, step), default horizon and "
        "termination. All cells meet the same initial states.\n\n" + "\n".join(lines)
    )


def _headline(tables: Tables, measurements: Measurements) -> str:
    lines = []
    for policy in tables["policies"]:
        found = _headline_rate(tables, policy)
        if found is None:
            lines.append(f"- {policy['label']}: not run.")
            continue
        episodes = measurements.plan.protocol.report.episodes
        few = f" (fewer than the {REPORT_EPISODES} that the rules ask for)" if episodes < REPORT_EPISODES else ""
        lines.append(
            f"- {policy['label']}: **{found}** over {episodes} report episodes{few} at "
            f"N = {policy['best_num_candidates']}, M = {policy['best_num_steps']}."
        )
    return "## Headline\n\n" + "\n".join(lines) + f"\n\n{_paper(measurements.plan.task)}"


def _headline_rate(tables: Tables, policy: Row) -> str | None:
    best = (policy["best_num_candidates"], policy["best_num_steps"])
    rows = [row for row in cells(tables, policy["label"], "report", "best") if budget(row) == best]
    return rate(rows[0]) if rows else None


def _paper(task: str) -> str:
    environment = next((name for name in PAPER_SUCCESS if task.startswith(f"{name}-")), None)
    if environment is None:
        return "The paper has no figure for this environment."
    return (
        f"The paper gives {PAPER_SUCCESS[environment]} % for {environment}: the mean over its five tasks, 8 seeds, 1M "
        "updates, 4 x 512. It gives no figure for this task alone, nor the N and M behind its own."
    )


def _latency(tables: Tables, measurements: Measurements) -> str:
    rows = tables["latency"]
    if not rows:
        return "## Latency\n\nNot run."
    parts = ["## Latency", "One observation, in process, by the backend that evaluates; no network, no queue."]
    for label in dict.fromkeys(row["label"] for row in rows):
        mine = [row for row in rows if row["label"] == label]
        where = sorted({f"{row['engine']}, {row['threads']} thread, {row['machine']}" for row in mine})
        loads = [float(row["load"]) for row in mine if row["load"]]
        busy = f"; load average {min(loads):.1f} to {max(loads):.1f}" if loads else ""
        times = {(int(row["num_candidates"]), int(row["num_steps"])): float(row["p50_ms"]) for row in mine}
        steps, candidates = (sorted({cell[side] for cell in times}) for side in (1, 0))
        body = table(
            ["M", *(f"N = {n}" for n in candidates)],
            ([m, *(number(times.get((n, m))) for n in candidates)] for m in steps),
        )
        parts.append(f"### {label}\n\nMedian, ms; {'; '.join(where)}{busy}.\n\n{body}")
    parts.append(figure(measurements, "success-by-latency", "Success against measured latency"))
    return "\n\n".join(part for part in parts if part)


def _learning_curves(tables: Tables, measurements: Measurements) -> str:
    rows = tables["curves"]
    if not rows:
        return "## Learning curves\n\nNot run."
    budgets = list(dict.fromkeys(map(budget, rows)))
    found = {(row["label"], row["updates"], budget(row)): rate(row) for row in rows}
    body = table(
        ["run", "updates", *(f"({n}, {m})" for n, m in budgets)],
        (
            [label, f"{updates:,}", *(found.get((label, updates, cell), "not run") for cell in budgets)]
            for label, updates in dict.fromkeys((row["label"], row["updates"]) for row in rows)
        ),
    )
    seeds = measurements.plan.protocol.selection
    picture = figure(measurements, "learning-curves", "Success against updates, a line for every run")
    return f"## Learning curves\n\n{seeds.episodes} episodes a point, selection seeds {seeds}.\n\n{body}\n\n{picture}"


def _not_run(measurements: Measurements) -> str:
    missing = measurements.not_run()
    return "## Not run\n\n" + ("\n".join(f"- {item}" for item in missing) if missing else "Everything planned was run.")
