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

SELECTION = "selection"
"""The name of the reports that choose the budget."""


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


@dataclass(frozen=True)
class _Purpose:
    """What a report is for, which its file's name has, and the episodes that it is of."""

    name: str
    num_candidates: tuple[int, ...]
    num_steps: tuple[int, ...]
    first_seed: int
    episodes: int

    def is_of(self, report: dict[str, Any]) -> bool:
        """Whether `report` is of these budgets and seeds."""
        cells = [(n, m) for n in self.num_candidates for m in self.num_steps]
        found = [(cell["num_candidates"], cell["num_steps"]) for cell in report["cells"]]
        return (found, report["first_seed"], report["episodes"]) == (cells, self.first_seed, self.episodes)


@dataclass(frozen=True)
class _Reports:
    """The reports in `folder`: kept ones, and new ones where they are missing or of other episodes."""

    folder: Path
    rules: Rules

    def path(self, one: Contestant, purpose: str) -> Path:
        return self.folder / f"task{one.number}-{one.version[:12]}-{purpose}.json"

    def of(self, one: Contestant, purpose: _Purpose, policy: Path | None = None) -> dict[str, Any]:
        """The report of `one`, or of `policy`, an earlier policy of its run."""
        path = self.path(one, purpose.name)
        report: dict[str, Any] | None = read_json(path)
        if report is not None and purpose.is_of(report):
            return report
        return evaluate_policy(
            EvaluateConfig(
                policy=policy or one.path,
                num_candidates=purpose.num_candidates,
                num_steps=purpose.num_steps,
                first_seed=purpose.first_seed,
                episodes=purpose.episodes,
                processes=self.rules.processes,
                lanes=self.rules.lanes,
                json=path,
            )
        )


def measure(folder: Path, contestants: Sequence[Contestant], rules: Rules) -> list[Score]:
    """The scores of a domain: a row for each task, then the mean. Evaluates what `folder` does not hold.

    The budget is chosen once and kept in `folder`/budget.json: a training seed that is added later does not move it.
    """
    reports = _Reports(folder, rules)
    n, m = _budget(reports, contestants)
    purpose = _Purpose("report", (n,), (m,), rules.report_first_seed, rules.report_episodes)
    successes: dict[int, list[int]] = {}
    episodes: dict[int, list[int]] = {}
    for one in contestants:
        (cell,) = reports.of(one, purpose)["cells"]
        successes.setdefault(one.number, []).append(round(cell["success"] * cell["episodes"]))
        episodes.setdefault(one.number, []).append(cell["episodes"])
    domain = contestants[0].domain
    scores = [task_score(domain, task, won, episodes[task], (n, m)) for task, won in sorted(successes.items())]
    return [*scores, mean_score(scores)]


def selection_rates(folder: Path, contestants: Sequence[Contestant], rules: Rules) -> dict[tuple[int, int], float]:
    """(N, M) -> mean success over the kept selection reports of the policies that chose the budget."""
    budget = read_json(folder / "budget.json")
    chose = [one for one in contestants if one.version in budget["chosen_by"]]
    reports = _Reports(folder, rules)
    return _pooled([read_json(reports.path(one, SELECTION))["cells"] for one in chose])


def learning_curve(folder: Path, contestants: Sequence[Contestant], rules: Rules) -> list[dict[str, Any]]:
    """Success of every kept policy of the run folders at the domain's budget, on selection seeds.

    Returns, for each number of updates that all tasks' runs have kept, {"updates", "success": [tasks 1 to 5]}: means
    over training seeds. Evaluates what `folder` does not hold.
    """
    reports = _Reports(folder, rules)
    n, m = _budget(reports, contestants)
    found: dict[int, dict[int, list[float]]] = {}
    for one in contestants:
        for path in sorted(one.path.parent.glob("policy-*.safetensors")):
            updates = int(path.stem.removeprefix("policy-"))
            purpose = _Purpose(f"updates-{updates}", (n,), (m,), rules.first_seed, rules.episodes)
            (cell,) = reports.of(one, purpose, path)["cells"]
            found.setdefault(updates, {}).setdefault(one.number, []).append(cell["success"])
    return [
        {"updates": updates, "success": [sum(rates[task]) / len(rates[task]) for task in TASKS]}
        for updates, rates in sorted(found.items())
        if rates.keys() == set(TASKS)
    ]


def _budget(reports: _Reports, contestants: Sequence[Contestant]) -> tuple[int, int]:
    path, rules = reports.folder / "budget.json", reports.rules
    kept = read_json(path)
    if kept is not None:
        return int(kept["num_candidates"]), int(kept["num_steps"])
    purpose = _Purpose(SELECTION, rules.num_candidates, rules.num_steps, rules.first_seed, rules.episodes)
    rates = _pooled([reports.of(one, purpose)["cells"] for one in contestants])
    n, m = min(rates, key=lambda cell: (-rates[cell], cell[0] * cell[1], cell))
    write_json(path, {"num_candidates": n, "num_steps": m, "chosen_by": [one.version for one in contestants]})
    return n, m


def _pooled(reports: list[list[dict[str, Any]]]) -> dict[tuple[int, int], float]:
    """Mean success over the reports, each of the same number of episodes, cell by cell."""
    rates: dict[tuple[int, int], float] = {}
    for cells in reports:
        for cell in cells:
            key = cell["num_candidates"], cell["num_steps"]
            rates[key] = rates.get(key, 0.0) + cell["success"] / len(reports)
    return {key: round(rate, 9) for key, rate in rates.items()}  # equal counts are equal rates
