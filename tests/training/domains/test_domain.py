"""`sorl-domain`: one recipe, one budget for all tasks, chosen before anything is reported, and the mean over them."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sorl_client.statistics import wilson_interval

import training.domains.measuring
from policy import Provenance, load_policy, save_policy
from tests.policies import random_policy
from tests.rooms import ROOT
from training.domains.cli import DomainConfig, run
from training.domains.page import BEGIN, END, page, with_table
from training.domains.published import PUBLISHED
from training.domains.scores import DomainError, mean_score, read_scores, task_score
from training.evaluation import EvaluateConfig
from training.files import read_json, write_json

Evaluated = list[tuple[int, int, str]]
"""Task, training seed, and "selection" or "report"."""


def save(
    folder: Path, task: int, seed: int = 0, domain: str = "pointmaze-medium", temperature: float = 1.0, **config: Any
) -> Path:
    origin = Provenance(
        environment=f"{domain}-navigate-singletask-task{task}-v0",
        updates=30,
        seed=seed,
        dataset_sha256="d" * 64,
        config={"updates": 30, "tau": 0.01} | config,
    )
    path = folder / f"{domain}-{task}-{seed}.safetensors"
    spec = {"obs_dim": 2, "action_dim": 2, "temperature": temperature, "provenance": origin}
    save_policy(random_policy(10 * task + seed, **spec), path)
    return path


@pytest.fixture
def policies(tmp_path: Path) -> list[Path]:
    """One policy for each task."""
    return [save(tmp_path, task) for task in range(1, 6)]


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> Evaluated:
    """Evaluations, without episodes: a policy of task t solves t of ten at N = 4, and less at other N."""
    calls: Evaluated = []

    def evaluate(config: EvaluateConfig) -> dict[str, Any]:
        origin = load_policy(config.policy).spec.provenance
        task, seed = str(origin.environment)[-4], str(origin.seed)
        purpose = "report" if config.first_seed == 20_000 else "selection"
        calls.append((int(task), int(seed), purpose))
        worse = {1: 3, 4: 0, 16: 0}
        cells = [
            {
                "num_candidates": n,
                "num_steps": m,
                "success": max(0, int(task) - worse[n]) / 10 if purpose == "selection" else int(task) / 20,
                "episodes": config.episodes,
            }
            for n in config.num_candidates
            for m in config.num_steps
        ]
        report = {"first_seed": config.first_seed, "episodes": config.episodes, "cells": cells}
        assert config.json is not None
        write_json(config.json, report)
        return report

    monkeypatch.setattr(training.domains.measuring, "evaluate_policy", evaluate)
    return calls


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., DomainConfig]:
    def make(policies: list[Path], **settings: Any) -> DomainConfig:
        return DomainConfig(tuple(policies), out=tmp_path / "results", num_candidates=(1, 4, 16), **settings)

    return make


def test_a_domain_is_scored_once(
    policies: list[Path], evaluated: Evaluated, config: Callable[..., DomainConfig], tmp_path: Path
) -> None:
    run(config(policies))
    assert [call[2] for call in evaluated] == ["selection"] * 5 + ["report"] * 5
    with (tmp_path / "results" / "domains.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = "domain task success low high num_candidates num_steps episodes training_seeds"
    assert list(rows[0]) == names.split()
    assert [row["task"] for row in rows] == ["1", "2", "3", "4", "5", "mean"]
    for task, row in enumerate(rows[:5], 1):
        assert float(row["success"]) == pytest.approx(task / 20)
        assert (float(row["low"]), float(row["high"])) == pytest.approx(wilson_interval(10 * task, 200))
        assert (row["num_candidates"], row["episodes"], row["training_seeds"]) == ("4", "200", "1")
    assert float(rows[5]["success"]) == pytest.approx(sum(range(1, 6)) / 100)
    assert rows[5]["episodes"] == "1000"
    text = (tmp_path / "results" / "domains.md").read_text()
    assert "**15.0 %" in text
    assert "regenerated data" in text
    evaluated.clear()
    run(config(policies))
    assert evaluated == []
    assert (tmp_path / "results" / "domains.md").read_text() == text


def test_the_cheapest_of_equal_budgets_is_chosen(
    policies: list[Path], evaluated: Evaluated, config: Callable[..., DomainConfig], tmp_path: Path
) -> None:
    run(config(policies))
    (score, *_) = read_scores(tmp_path / "results" / "domains.csv")
    assert (score.num_candidates, score.num_steps) == (4, 8)  # (16, 8) is as good


def test_another_training_seed_adds_episodes_and_moves_no_budget(
    policies: list[Path], evaluated: Evaluated, config: Callable[..., DomainConfig], tmp_path: Path
) -> None:
    run(config(policies))
    evaluated.clear()
    run(config([*policies, save(tmp_path, 3, seed=1)]))
    assert evaluated == [(3, 1, "report")]
    scores = {score.task: score for score in read_scores(tmp_path / "results" / "domains.csv")}
    assert (scores["3"].episodes, scores["3"].training_seeds) == (400, 2)
    assert (scores["mean"].episodes, scores["mean"].training_seeds) == (1200, 1)


def test_domains_are_kept_beside_each_other(
    policies: list[Path], evaluated: Evaluated, config: Callable[..., DomainConfig], tmp_path: Path
) -> None:
    run(config(policies))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    run(config([save(tmp_path, task, domain="scene") for task in range(1, 6)], readme=readme))
    domains = [score.domain for score in read_scores(tmp_path / "results" / "domains.csv")]
    assert domains == ["pointmaze-medium"] * 6 + ["scene"] * 6
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "| SORL |" in text
    assert "(docs/results/domains.md)" in text


def test_learning_curves_are_of_kept_policies_at_the_chosen_budget(
    evaluated: Evaluated, config: Callable[..., DomainConfig], tmp_path: Path
) -> None:
    runs = []
    for task in range(1, 6):
        run_folder = tmp_path / f"run{task}"
        save(run_folder, task).rename(run_folder / "policy.safetensors")
        for updates in (10, 20):
            save(run_folder, task).rename(run_folder / f"policy-{updates}.safetensors")
        runs.append(run_folder)
    (tmp_path / "run5" / "policy-20.safetensors").unlink()
    run(config(runs, curves=True))
    assert [call[2] for call in evaluated] == ["selection"] * 5 + ["report"] * 5 + ["selection"] * 9
    text = (tmp_path / "results" / "domains.md").read_text()
    assert "| 10 | 10 | 20 | 30 | 40 | 50 | 30 |" in text
    assert "\n| 20 |" not in text


def test_a_recipe_names_its_temperature(evaluated: Evaluated, config: Any, tmp_path: Path) -> None:
    run(config([save(tmp_path, task, temperature=0.5) for task in range(1, 6)]))
    assert "`temperature` 0.5" in (tmp_path / "results" / "domains.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder, paths: paths[:4], "no policy of pointmaze-medium task 5"),
        (lambda folder, paths: [*paths[:4], save(folder, 5, tau=0.02)], "differ in tau"),
        (lambda folder, paths: [*paths[:4], save(folder, 5, updates=31)], "differ in updates"),
        (lambda folder, paths: [*paths[:4], save(folder, 5, temperature=0.5)], "differ in temperature"),
        (lambda folder, paths: [*paths, save(folder, 1, domain="scene")], "one domain at a time"),
        (lambda folder, paths: [*paths, paths[0]], "same task and training seed"),
    ],
)
def test_what_is_no_score_is_refused(
    policies: list[Path],
    evaluated: Evaluated,
    config: Callable[..., DomainConfig],
    tmp_path: Path,
    change: Callable[[Path, list[Path]], list[Path]],
    message: str,
) -> None:
    with pytest.raises(DomainError, match=message):
        run(config(change(tmp_path, policies)))
    assert evaluated == []


def test_seeds_that_overlap_are_refused(policies: list[Path], config: Callable[..., DomainConfig]) -> None:
    with pytest.raises(DomainError, match="overlap"):
        config(policies, first_seed=19_960)
    with pytest.raises(DomainError, match="name the policies"):
        config([])


def test_the_interval_of_the_mean_is_about_that_of_all_episodes_where_tasks_are_alike() -> None:
    """Five tasks of 200 episodes at one rate are 1,000 episodes; and it covers the truth in simulation elsewhere."""
    scores = [task_score("scene", task, [100], [200], (4, 8)) for task in range(1, 6)]
    mean = mean_score(scores)
    assert (mean.low, mean.high) == pytest.approx(wilson_interval(500, 1000), abs=5e-4)
    exact = mean_score([task_score("scene", task, [200], [200], (4, 8)) for task in range(1, 6)])
    assert exact.success == exact.high == 1.0
    assert exact.low == pytest.approx(1 - (1 - wilson_interval(200, 200)[0]) / math.sqrt(5))


def test_the_projects_own_tables_are_made_from_its_scores() -> None:
    scores = read_scores(ROOT / "docs/results/domains.csv")
    readme = (ROOT / "README.md").read_text()
    assert with_table(readme, scores, "docs/results/domains.md") == readme
    recipes = [read_json(path) for path in sorted((ROOT / "docs/results/domains").glob("*/recipe.json"))]
    assert page(scores, recipes) == (ROOT / "docs/results/domains.md").read_text()
    for domain in {score.domain for score in scores}:
        tasks = [score for score in scores if score.domain == domain]
        assert tasks[-1] == mean_score(tasks[:-1])


def test_a_readme_without_marks_is_named() -> None:
    with pytest.raises(DomainError, match=r"domains\.csv: begin"):
        with_table("nothing", [], "x")


def test_a_file_of_other_columns_is_named(tmp_path: Path) -> None:
    (tmp_path / "domains.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DomainError, match="expected the columns domain, task"):
        read_scores(tmp_path / "domains.csv")


def test_published_scores_are_per_cent_of_known_domains() -> None:
    for one in PUBLISHED:
        assert set(one.scores) <= {"cube-single", "cube-double", "scene"}
        assert all(1 < score <= 100 for score in one.scores.values())
