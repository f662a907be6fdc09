"""Settings are converted to the types of a config's fields, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training.config import TrainConfig
from training.sweep.errors import SettingError, UnknownName
from training.sweep.settings import check_names, convert, known_settings, parse_assignment


@pytest.mark.parametrize(
    ("name", "written", "meant"),
    [
        ("hidden", [128, 64], (128, 64)),
        ("q_loss_coef", 300, 300.0),
        ("discount", 0.99, 0.99),
        ("discount", None, None),
        ("dataset", "data/maze.npz", Path("data/maze.npz")),
        ("q_agg", "min", "min"),
        ("clip_targets", True, True),
        ("updates", 5, 5),
    ],
)
def test_values_get_the_types_of_their_fields(name: str, written: Any, meant: Any) -> None:
    value = convert(TrainConfig, "grid", {name: written})[name]
    assert value == meant
    assert type(value) is type(meant) or isinstance(value, Path)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("hidden", 128, "a list, each item a whole number"),
        ("hidden", [1.5], "a list, each item a whole number"),
        ("q_agg", "max", "'mean' or 'min'"),
        ("updates", 1e6, "a whole number"),
        ("updates", True, "a whole number"),
        ("learning_rate", "fast", "a number"),
        ("learning_rate", True, "a number"),
        ("clip_targets", 1, "true or false"),
    ],
)
def test_errors_name_values_that_do_not_fit(name: str, value: Any, expected: str) -> None:
    with pytest.raises(SettingError, match=f"grid: {name} must be {expected}"):
        convert(TrainConfig, "grid", {name: value})


def test_an_unknown_name_is_answered_with_similar_ones() -> None:
    with pytest.raises(UnknownName, match="did you mean q_loss_coef") as caught:
        check_names("grid", ["q_agg", "q_loss_coefficient"], known_settings(TrainConfig))
    assert caught.value.name == "q_loss_coefficient"
    assert caught.value.near[0] == "q_loss_coef"
    with pytest.raises(UnknownName, match=r"there are .*batch_size"):
        check_names("grid", ["zzz"], known_settings(TrainConfig))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("q_agg=mean,min", ["mean", "min"]),
        ("learning_rate=1e-4,3e-4", [1e-4, 3e-4]),
        ("hidden=[128,128],[256]", [[128, 128], [256]]),
        ("clip_targets=true", [True]),
        ("dataset=/data/a=b.npz", ["/data/a=b.npz"]),
    ],
)
def test_assignments_are_parsed(text: str, values: list[Any]) -> None:
    assert parse_assignment("--grid", text) == (text.split("=")[0], values)


@pytest.mark.parametrize("text", ["q_agg", "=3", "q_agg="])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(SettingError, match="NAME=VALUE"):
        parse_assignment("--grid", text)
