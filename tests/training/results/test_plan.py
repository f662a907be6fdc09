from __future__ import annotations

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


def test_a_plan_comes_back(tmp_path: Path) -> None:
    PLAN.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == PLAN
    assert PLAN.versions() == ["a" * 64, "b" * 64, "c" * 64]


def test_what_is_no_plan_is_named(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(ResultsError, match="run sorl-results on policies first"):
        Plan.read(path)
    path.write_text("{}")
    with pytest.raises(ResultsError, match="is not a plan"):
        Plan.read(path)
