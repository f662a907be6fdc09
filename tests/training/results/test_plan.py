from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.results.conftest import SMALL
from training.results.errors import ResultsError
from training.results.plan import Curve, Plan, Subject

PLAN = Plan(
    task="cube-single-play-singletask-task2-v0",
    protocol=SMALL,
    subjects=(Subject("seed 0", "a" * 64, 3), Subject("seed 1", "b" * 64, 1)),
    curves=(Curve("seed 0", ((10, "c" * 64), (20, "a" * 64))),),
)


def test_a_plan_is_read_back(tmp_path: Path) -> None:
    PLAN.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == PLAN
    with_quartiles = replace(PLAN, protocol=replace(SMALL, quartile_cells=((4, 8),)))
    with_quartiles.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == with_quartiles
    assert PLAN.versions() == ["a" * 64, "b" * 64, "c" * 64]


def test_a_plan_of_an_earlier_release_has_no_quartile_cells(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    PLAN.write(path)
    value = json.loads(path.read_text())
    del value["protocol"]["quartile_cells"]
    path.write_text(json.dumps(value))
    assert Plan.read(path) == PLAN


def test_missing_and_wrong_files_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(ResultsError, match="run sorl-results on policies first"):
        Plan.read(path)
    path.write_text("{}")
    with pytest.raises(ResultsError, match="is not a plan"):
        Plan.read(path)


def test_plans_are_merged_by_label() -> None:
    further = replace(
        PLAN,
        subjects=(Subject("seed 1", "d" * 64, 1), Subject("large", "e" * 64, 1)),
        curves=(Curve("large", ((10, "f" * 64),)),),
    )
    both = PLAN.merged_with(further)
    assert [(subject.label, subject.version[0]) for subject in both.subjects] == [
        ("seed 0", "a"),
        ("seed 1", "d"),
        ("large", "e"),
    ]
    assert both.curves == (*PLAN.curves, *further.curves)


def test_merged_plans_have_the_quartile_cells_of_both() -> None:
    first = replace(PLAN, protocol=replace(SMALL, quartile_cells=((4, 8), (8, 1))))
    second = replace(PLAN, protocol=replace(SMALL, quartile_cells=((8, 1), (16, 8))))
    assert first.merged_with(second).protocol == replace(SMALL, quartile_cells=((4, 8), (8, 1), (16, 8)))
    assert first.merged_with(PLAN).protocol == first.protocol


def test_plans_with_other_protocols_are_not_merged() -> None:
    further = replace(PLAN, protocol=replace(SMALL, curve_cells=((1, 1),)))
    with pytest.raises(ResultsError, match=r"other rules: curve_cells \(the page has \(\(1, 8\), \(2, 8\)\)\)"):
        PLAN.merged_with(further)
