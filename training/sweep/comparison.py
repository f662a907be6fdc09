"""`compare`: variants of a sweep against its plain settings, paired by training seed and episode.

Both runs of a pair have the same training seed, hence the same initial weights, batches and noise as far as the
settings allow, and the same evaluation episodes. The unit of repetition is the training seed, so the interval is
Student's t of the seeds' differences. Seeds that agree by chance would make it empty, so it is never narrower than the
paired interval of all their episodes together. With one seed, the paired interval stands alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from training.episode_table import read_rows
from training.reporting import Paired
from training.sweep.plan import Evaluation, Run

PLAIN = "default"
Outcomes = dict[tuple[int, int, int], int]
"""(N, M, episode) -> 1 or 0."""


@dataclass(frozen=True)
class Comparison:
    """One variant against the plain settings at one cell. Rates are in [0, 1]; nan if no pair is finished."""

    task: str
    setting: str
    first_seed: int
    num_candidates: int
    num_steps: int
    episodes: int
    """Episodes per run."""
    success: float
    """Success of the variant, mean over seeds."""
    plain: float
    """Success of the plain settings, mean over the same seeds."""
    difference: float
    """`success` - `plain`."""
    low: float
    high: float
    seeds: tuple[int, ...]
    """Training seeds whose two runs are both finished."""
    differences: tuple[float, ...]
    """The difference at each seed."""

    @property
    def verdict(self) -> str:
        """ "better" or "worse" if the interval excludes 0, otherwise "not separated" or "not run"."""
        if not self.seeds:
            return "not run"
        if self.low <= 0.0 <= self.high:
            return "not separated"
        return "better" if self.low > 0.0 else "worse"


def compare(runs: Sequence[Run], finished: set[str]) -> list[Comparison]:
    """One comparison per variant and cell, in the plan's order; none if the sweep has no plain settings.

    Args:
        runs: the plan.
        finished: names of the finished runs.

    Raises:
        EpisodeTableError: the episodes beside a run's result are damaged.
    """
    plain = {(run.task, run.config.seed): run for run in runs if run.setting == PLAIN}
    groups: dict[tuple[str, str], list[tuple[Run, Run]]] = {}
    for run in runs:
        if run.setting != PLAIN and (run.task, run.config.seed) in plain:
            groups.setdefault((run.task, run.setting), []).append((run, plain[run.task, run.config.seed]))
    rows = []
    for members in groups.values():
        pairs = [pair for pair in members if all(run.name in finished for run in pair)]
        for evaluation in members[0][0].evaluations:
            outcomes = [tuple(_outcomes(run, evaluation) for run in pair) for pair in pairs]
            seeds = tuple(variant.config.seed for variant, _ in pairs)
            for first_seed, episodes, n, m in evaluation.cells():
                span = range(first_seed, first_seed + episodes)
                sides = [tuple([side[n, m, episode] for episode in span] for side in pair) for pair in outcomes]
                mean, low, high = estimate([(a, b) for a, b in sides])
                rows.append(
                    Comparison(
                        task=members[0][0].task,
                        setting=members[0][0].setting,
                        first_seed=first_seed,
                        num_candidates=n,
                        num_steps=m,
                        episodes=episodes,
                        success=fmean(fmean(a) for a, _ in sides) if sides else math.nan,
                        plain=fmean(fmean(b) for _, b in sides) if sides else math.nan,
                        difference=mean,
                        low=low,
                        high=high,
                        seeds=seeds,
                        differences=tuple(fmean(a) - fmean(b) for a, b in sides),
                    )
                )
    return rows


def estimate(sides: Sequence[tuple[Sequence[int], Sequence[int]]]) -> tuple[float, float, float]:
    """Mean difference over seeds and its 95 % interval, as the module's docstring defines it; nan without seeds.

    Args:
        sides: per seed, the outcomes (0 or 1) of variant and plain settings on the same episodes.
    """
    from scipy.stats import t as student

    if not sides:
        return math.nan, math.nan, math.nan
    differences = [fmean(a) - fmean(b) for a, b in sides]
    mean = fmean(differences)
    low, high = Paired.of([x for a, _ in sides for x in a], [x for _, b in sides for x in b]).interval
    if len(differences) > 1:
        half = float(student.ppf(0.975, len(differences) - 1)) * stdev(differences) / math.sqrt(len(differences))
        low, high = max(-1.0, min(low, mean - half)), min(1.0, max(high, mean + half))
    return mean, low, high


def _outcomes(run: Run, evaluation: Evaluation) -> Outcomes:
    """The outcomes of a finished run's episodes."""
    path = evaluation.config(run.folder / "policy.safetensors", 1).csv
    assert path is not None
    return {(row.num_candidates, row.num_steps, row.episode): row.success for row in read_rows(path)}


def format_comparisons(rows: Sequence[Comparison]) -> str:
    """The comparisons as text, one line each."""
    width = max(len(row.setting) for row in rows)
    lines = [f"{'against default':<{width}} {'N':>4} {'M':>2} {'from':>6} seeds {'points [95 %]':>22}  verdict"]
    for row in rows:
        lines.append(
            f"{row.setting:<{width}} {row.num_candidates:>4} {row.num_steps:>2} {row.first_seed:>6} "
            f"{len(row.seeds):>5} {points(row):>22}  {row.verdict}"
        )
    return "\n".join(lines)


def points(row: Comparison) -> str:
    """The difference and its interval in percentage points, "+14.5 [+6.1, +22.5]"; "-" if not run."""
    if not row.seeds:
        return "-"
    return f"{100 * row.difference:+.1f} [{100 * row.low:+.1f}, {100 * row.high:+.1f}]"
