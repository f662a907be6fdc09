"""Evaluates the policies of a domain: one (N, M) for all tasks from selection seeds, then success on report seeds.

Reports are kept as `sorl-evaluate --json` writes them, so that an interrupted command goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.domains.contestants import Contestant
from training.domains.scores import TASKS, Score, mean_score, task_score
from training.evaluation import EvaluateConfig, evaluate_policy
from training.files import read_json, write_json


@dataclass(frozen=True)
class Rules:
    """Budgets and seeds. Selection and report seeds must not overlap."""

    num_candidates: tuple[int, ...]
    num_steps: tuple[int, ...]
    first_seed: int
    episodes: int
    report_first_seed: int
    report_episodes: int
    processes: int = 0
    lanes: int = 8


def measure(folder: Path, contestants: Sequence[Contestant], rules: Rules) -> list[Score]:
    """The scores of a domain: a row for each task, then the mean. Evaluates what `folder` does not hold.

    The budget is chosen once and kept in `folder`/budget.json: a training seed that is added later does not move it.
    """
    budget = _budget(folder, contestants, rules)
    successes: dict[int, list[int]] = {}
    episodes: dict[int, list[int]] = {}
    for one in contestants:
        report = _evaluate(
            folder, one, "report", (budget[0],), (budget[1],), rules.report_first_seed, rules.report_episodes, rules
        )
        (cell,) = report["cells"]
        successes.setdefault(one.number, []).append(round(cell["success"] * cell["episodes"]))
        episodes.setdefault(one.number, []).append(cell["episodes"])
    domain = contestants[0].domain
    scores = [task_score(domain, task, won, episodes[task], budget) for task, won in sorted(successes.items())]
    return [*scores, mean_score(scores)]


def selection_rates(folder: Path, contestants: Sequence[Contestant]) -> dict[tuple[int, int], float]:
    """(N, M) -> mean success over the kept selection reports of the policies that chose the budget."""
    budget = read_json(folder / "budget.json")
    chose = [one for one in contestants if one.version in budget["chosen_by"]]
    reports = [read_json(_path(folder, one, "selection")) for one in chose]
    return _pooled([report["cells"] for report in reports])


def learning_curve(folder: Path, contestants: Sequence[Contestant], rules: Rules) -> list[dict[str, Any]]:
    """Success of every kept policy of the run folders at the domain's budget, on selection seeds.

    Returns, for each number of updates that all tasks' runs have kept, {"updates", "success": [tasks 1 to 5]}: means
    over training seeds. Evaluates what `folder` does not hold.
    """
    n, m = _budget(folder, contestants, rules)
    found: dict[int, dict[int, list[float]]] = {}
    for one in contestants:
        for path in sorted(one.path.parent.glob("policy-*.safetensors")):
            updates = int(path.stem.removeprefix("policy-"))
            purpose = f"updates-{updates}"
            report = _evaluate(folder, one, purpose, (n,), (m,), rules.first_seed, rules.episodes, rules, path)
            (cell,) = report["cells"]
            found.setdefault(updates, {}).setdefault(one.number, []).append(cell["success"])
    return [
        {"updates": updates, "success": [sum(rates[task]) / len(rates[task]) for task in TASKS]}
        for updates, rates in sorted(found.items())
        if rates.keys() == set(TASKS)
    ]


def _budget(folder: Path, contestants: Sequence[Contestant], rules: Rules) -> tuple[int, int]:
    kept = read_json(folder / "budget.json")
    if kept is not None:
        return int(kept["num_candidates"]), int(kept["num_steps"])
    rates = _pooled(
        [
            _evaluate(
                folder,
                one,
                "selection",
                rules.num_candidates,
                rules.num_steps,
                rules.first_seed,
                rules.episodes,
                rules,
            )["cells"]
            for one in contestants
        ]
    )
    n, m = min(rates, key=lambda cell: (-rates[cell], cell[0] * cell[1], cell))
    write_json(
        folder / "budget.json",
        {"num_candidates": n, "num_steps": m, "chosen_by": [one.version for one in contestants]},
    )
    return n, m


def _pooled(reports: list[list[dict[str, Any]]]) -> dict[tuple[int, int], float]:
    """Mean success over the reports, each of the same number of episodes, cell by cell."""
    rates: dict[tuple[int, int], float] = {}
    for cells in reports:
        for cell in cells:
            key = cell["num_candidates"], cell["num_steps"]
            rates[key] = rates.get(key, 0.0) + cell["success"] / len(reports)
    return {key: round(rate, 9) for key, rate in rates.items()}  # equal counts are equal rates


def _evaluate(
    folder: Path,
    one: Contestant,
    purpose: str,
    num_candidates: tuple[int, ...],
    num_steps: tuple[int, ...],
    first_seed: int,
    episodes: int,
    rules: Rules,
    policy: Path | None = None,
) -> dict[str, Any]:
    """The report at these budgets on these seeds: the kept one if it is that, or a new one.

    Args:
        policy: an earlier policy of `one`'s run, to evaluate in its place.
    """
    path = _path(folder, one, purpose)
    report: dict[str, Any] | None = read_json(path)
    cells = [(n, m) for n in num_candidates for m in num_steps]
    if report is not None:
        found = [(cell["num_candidates"], cell["num_steps"]) for cell in report["cells"]]
        if (found, report["first_seed"], report["episodes"]) == (cells, first_seed, episodes):
            return report
    return evaluate_policy(
        EvaluateConfig(
            policy=policy or one.path,
            num_candidates=num_candidates,
            num_steps=num_steps,
            first_seed=first_seed,
            episodes=episodes,
            processes=rules.processes,
            lanes=rules.lanes,
            json=path,
        )
    )


def _path(folder: Path, one: Contestant, purpose: str) -> Path:
    return folder / f"task{one.number}-{one.version[:12]}-{purpose}.json"
