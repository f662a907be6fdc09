"""Success on the tasks of a domain, the mean over them, and `domains.csv`, which keeps both."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from sorl_client.statistics import wilson_interval

from training.files import atomic_path

TASKS = (1, 2, 3, 4, 5)
"""The single tasks of an OGBench domain; a domain's score is the mean over them."""
MEAN = "mean"


class DomainError(ValueError):
    """Policies or files that make no score of a domain; the message says why."""


@dataclass(frozen=True)
class Score:
    """One row of `domains.csv`. Rates are in [0, 1]."""

    domain: str
    task: str
    """"1" to "5", or "mean"."""
    success: float
    low: float
    """Lower end of the 95 % interval over episodes."""
    high: float
    num_candidates: int
    num_steps: int
    episodes: int
    """Report episodes of all training seeds together."""
    training_seeds: int
    """How many training seeds these episodes are of; for the mean the smallest number over tasks."""


def task_score(
    domain: str, task: int, successes: Sequence[int], episodes: Sequence[int], budget: tuple[int, int]
) -> Score:
    """The score of one task: all episodes of its training seeds together, with Wilson's interval.

    Args:
        successes, episodes: one number for each training seed.
        budget: N and M.
    """
    won, run = sum(successes), sum(episodes)
    low, high = wilson_interval(won, run)
    return Score(domain, str(task), won / run, low, high, *budget, run, len(episodes))


def mean_score(scores: Sequence[Score]) -> Score:
    """The mean over the tasks of one domain.

    Its interval combines those of the tasks (method of variance estimates recovery: Zou and Donner, "Construction of
    confidence limits about effect measures", Statistics in Medicine 27, 2008): the distance from the mean to its limit
    is the root of the sum of squares of the tasks' distances, each by its weight 1 / tasks.
    """
    first, count = scores[0], len(scores)
    mean = sum(score.success for score in scores) / count
    below = math.sqrt(sum((score.success - score.low) ** 2 for score in scores)) / count
    above = math.sqrt(sum((score.high - score.success) ** 2 for score in scores)) / count
    return Score(
        first.domain,
        MEAN,
        mean,
        mean - below,
        mean + above,
        first.num_candidates,
        first.num_steps,
        sum(score.episodes for score in scores),
        min(score.training_seeds for score in scores),
    )


def read_scores(path: Path) -> list[Score]:
    """The rows of a `domains.csv`; none if there is no such file.

    Raises:
        DomainError: it is not one.
    """
    names = [field.name for field in fields(Score)]
    try:
        with path.open(newline="") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames != names:
                raise DomainError(f"{path}: expected the columns {', '.join(names)}")
            return [_score(row) for row in rows]
    except FileNotFoundError:
        return []
    except (TypeError, ValueError) as error:
        raise DomainError(f"{path}: {error}") from None


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    """Write `domains.csv`, ordered by domain and task, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Score)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(score) for score in sorted(scores, key=lambda score: (score.domain, score.task)))


def _score(row: dict[str, str]) -> Score:
    return Score(
        row["domain"],
        row["task"],
        float(row["success"]),
        float(row["low"]),
        float(row["high"]),
        int(row["num_candidates"]),
        int(row["num_steps"]),
        int(row["episodes"]),
        int(row["training_seeds"]),
    )
