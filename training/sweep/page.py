"""`write_page`: a sweep's settings, table and comparisons as a page in Markdown, made from its results alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.config import non_default_settings
from training.files import write_text
from training.logs import training_seconds
from training.reporting import table
from training.sweep.comparison import Comparison, points
from training.sweep.plan import Run
from training.sweep.table import NOTE, Row, percent

COMPARISON_NOTE = (
    "Percentage points [95 % interval] against the plain settings, on the same training seeds and episodes: Student's "
    "t over seeds, at least as wide as the paired interval of all their episodes together (Newcombe 1998, method 10). "
    '"Better" and "worse" need an interval that excludes 0. Tests are not corrected for their number.'
)


def write_page(
    path: Path,
    runs: Sequence[Run],
    results: dict[str, dict[str, Any]],
    rows: Sequence[Row],
    comparisons: Sequence[Comparison],
) -> None:
    """Write the page of a sweep.

    Args:
        path: the file.
        runs: the plan.
        results: run name -> its result.json, for finished runs.
        rows: the table.
        comparisons: of variants with the plain settings; may be empty.
    """
    finished = [run for run in runs if run.name in results]
    sections = [
        f"# {path.stem.replace('-', ' ').capitalize()}",
        'Written by `sorl-sweep --page`, not by hand. Success is the final `info["success"]`, default horizon, '
        "temperature 1, a fresh seed for every (episode, step).",
        "## What was run",
        _settings(runs, finished, results),
        "## Success",
        *(_block(rows, task) for task in dict.fromkeys(run.task for run in runs)),
        NOTE,
    ]
    if comparisons:
        sections += ["## Against the plain settings", _comparisons(comparisons), COMPARISON_NOTE]
    if missing := [run.name for run in runs if run.name not in results]:
        sections += ["## Not run", "\n".join(f"- {name}" for name in missing)]
    write_text(path, "\n\n".join(sections) + "\n")


def _settings(runs: Sequence[Run], finished: Sequence[Run], results: dict[str, dict[str, Any]]) -> str:
    first = runs[0].config
    varied = {name for run in runs for name in run.varied}
    said = [f"{name} {here}" for name, (here, _) in non_default_settings(first.as_json()).items() if name not in varied]
    times = [training_seconds(run.folder / "metrics.csv", run.config.updates) for run in finished]
    seconds = [time for time in times if time is not None]
    lines = [
        f"- {len(finished)} of {len(runs)} runs: {first.updates:,} updates, hidden "
        f"{' x '.join(map(str, first.hidden))}, {first.precision}, training seeds "
        f"{', '.join(map(str, dict.fromkeys(run.config.seed for run in runs)))}.",
        f"- Settings other than the defaults: {', '.join(said) or 'none'}.",
    ]
    if varied:
        lines.append(f"- Varied: {', '.join(sorted(varied))}.")
    if seconds:
        lines.append(f"- Training took {min(seconds) / 60:.0f} to {max(seconds) / 60:.0f} minutes a run.")
    for name in ("dataset_sha256", "code_revision"):
        values = dict.fromkeys(str(results[run.name][name])[:12] for run in finished)
        lines.append(f"- {name}: {', '.join(f'`{value}`' for value in values) or 'unknown'}.")
    return "\n".join(lines)


def _block(rows: Sequence[Row], task: str) -> str:
    mine = [row for row in rows if row.task == task]
    cells = list(dict.fromkeys((row.first_seed, row.episodes, row.num_candidates, row.num_steps) for row in mine))
    places = {(row.setting, row.first_seed, row.episodes, row.num_candidates, row.num_steps): row for row in mine}
    lines = [
        [
            setting,
            f"{places[setting, *cells[0]].runs} of {places[setting, *cells[0]].planned}",
            *(percent(places[setting, *cell]) for cell in cells),
        ]
        for setting in dict.fromkeys(row.setting for row in mine)
    ]
    heads = [f"({n}, {m}), {episodes} episodes from {first}" for first, episodes, n, m in cells]
    return f"### {task}\n\n{table(['setting', 'runs', *heads], lines)}"


def _comparisons(comparisons: Sequence[Comparison]) -> str:
    lines = [
        [
            row.task,
            row.setting,
            f"({row.num_candidates}, {row.num_steps}) from {row.first_seed}",
            ", ".join(f"{100 * difference:+.0f}" for difference in row.differences) or "-",
            points(row),
            row.verdict,
        ]
        for row in comparisons
    ]
    return table(["task", "variant", "(N, M)", "by seed", "difference", "verdict"], lines)
