"""`domains.md`, and the table of means that README shows too. Both are made from `domains.csv`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from training.domains.published import PUBLISHED
from training.domains.scores import MEAN, TASKS, DomainError, Score
from training.reporting import rate, table

BEGIN, END = "<!-- domains.csv: begin -->", "<!-- domains.csv: end -->"
INTRODUCTION = """# Scores of domains

Success on the five single tasks of a domain, and their mean beside published ones. For whoever compares methods.
Written by `sorl-domain` from [domains.csv](domains.csv) and the reports in [domains](domains), not by hand."""
RULES = """One recipe and one (N, M) a domain. (N, M) has the highest success over all tasks' selection episodes
together, ties to the least compute; the report episodes were run after that. Success is the final `info["success"]`, as
in [the rules](README.md#rules). Intervals are 95 %: Wilson's for a task, and for the mean these combined (Zou and
Donner 2008)."""
NOTE = (
    "Ours is on regenerated data (`sorl-generate`), the others on OGBench's own. Its intervals are over episodes; they "
    "say nothing of how training seeds differ."
)


def means_table(scores: Sequence[Score]) -> str:
    """Means over the five tasks in per cent, ours with its interval, beside what was published."""
    domains = sorted({score.domain for score in scores})
    ours = {score.domain: score for score in scores if score.task == MEAN}
    rows: list[list[object]] = [
        ["**SORL Serve**", *(f"**{rate(vars(ours[domain]))}**" for domain in domains), "[domains](DOMAINS)"]
    ]
    for one in PUBLISHED:
        if any(domain in one.scores for domain in domains):
            rows.append([one.method, *(_published(one.scores.get(domain)) for domain in domains), one.source])
    return table(["mean over five tasks", *domains, "from"], rows)


def tasks_table(scores: Sequence[Score]) -> str:
    """Success on every task, with budget, episodes and training seeds."""
    lines = []
    for domain in sorted({score.domain for score in scores}):
        of = {score.task: score for score in scores if score.domain == domain}
        mean = of[MEAN]
        lines.append(
            [
                domain,
                f"({mean.num_candidates}, {mean.num_steps})",
                *(rate(vars(of[str(task)])) for task in TASKS),
                mean.episodes,
                mean.training_seeds,
            ]
        )
    return table(["", "(N, M)", *(f"task {task}" for task in TASKS), "episodes", "training seeds a task"], lines)


def page(scores: Sequence[Score], recipes: Sequence[Mapping[str, Any]]) -> str:
    """The text of `domains.md`.

    Args:
        recipes: what each domain's recipe.json holds.
    """
    return (
        "\n\n".join(
            (
                INTRODUCTION,
                means_table(scores).replace("[domains](DOMAINS)", "[domains.csv](domains.csv)"),
                NOTE + " A published figure is the mean over its authors' training seeds.",
                "## Tasks",
                tasks_table(scores),
                RULES,
                "## Recipes",
                *map(_recipe, recipes),
            )
        )
        + "\n"
    )


def with_table(text: str, scores: Sequence[Score], link: str) -> str:
    """`text` with the table of means between its two marks.

    Raises:
        DomainError: it has no such marks.
    """
    start, end = text.find(BEGIN), text.find(END)
    if start < 0 or end < start:
        raise DomainError(f"no lines {BEGIN} and {END} to put the table between")
    inner = f"{BEGIN}\n\n{means_table(scores).replace('DOMAINS', link)}\n\n{NOTE}\n\n"
    return text[:start] + inner + text[end:]


def _published(score: float | None) -> str:
    return "" if score is None else f"{score:g}"


def _recipe(recipe: Mapping[str, Any]) -> str:
    settings = ", ".join(f"`{name}` {value}" for name, value in recipe["settings"].items())
    policies = ", ".join(f"task {one['task']} `{one['sha256'][:12]}`" for one in recipe["policies"])
    starts = list(dict.fromkeys(f"`{one['start_from'][:12]}`" for one in recipe["policies"] if one["start_from"]))
    start = f", started from the {'policies' if len(starts) > 1 else 'policy'} {', '.join(starts)}" if starts else ""
    cells = ", ".join(
        f"({one['num_candidates']}, {one['num_steps']}) {100 * one['success']:.1f}" for one in recipe["selection"]
    )
    curve = [
        [f"{point['updates']:,}", *(f"{100 * rate:.0f}" for rate in (*point["success"], fmean(point["success"])))]
        for point in recipe["learning_curve"]
    ]
    learning = table(["updates", *(f"task {task}" for task in TASKS), "mean"], curve)
    return (
        f"**{recipe['domain']}**: {recipe['updates']:,} updates a task{start}. "
        f"Settings other than the defaults: {settings}. Data `{recipe['dataset_sha256'][:12]}`. "
        f"Policies: {policies}. Mean success over all tasks' selection episodes by (N, M), per cent: {cells}."
        + (f" Its learning curve, at the chosen (N, M) on selection episodes:\n\n{learning}" if curve else "")
    )
