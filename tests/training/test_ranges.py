"""Every number of every command has a range, and a command refuses what is outside in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest

from training.config import TrainConfig
from training.data.generate import GenerateConfig
from training.evaluation import EvaluateConfig
from training.ranges import POSITIVE, OneOrMore, PowerOfTwo, Range, Rule, require_ranges
from training.release.export import ExportConfig
from training.release.import_released import ImportConfig
from training.release.parity import ParityConfig
from training.results.cli import ResultsConfig
from training.sweep.cli import SweepConfig

CONFIGS = (
    EvaluateConfig,
    ExportConfig,
    GenerateConfig,
    ImportConfig,
    ParityConfig,
    ResultsConfig,
    SweepConfig,
    TrainConfig,
)


def numbers_without_range(hint: Any) -> Iterator[Any]:
    """The number types inside a type that no rule belongs to."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        ruled = arguments[0] in (int, float) and isinstance(arguments[1], Rule)
        yield from () if ruled else numbers_without_range(arguments[0])
    elif origin in (Union, UnionType, tuple):
        for argument in arguments:
            yield from numbers_without_range(argument)
    elif hint in (int, float):
        yield hint


@pytest.mark.parametrize("config", CONFIGS)
def test_every_number_has_a_range(config: type) -> None:
    hints = get_type_hints(config, include_extras=True)
    assert [name for name, hint in hints.items() if list(numbers_without_range(hint))] == []


@dataclass(frozen=True)
class Example:
    count: Annotated[int, Range(0, 8)] = 1
    rate: Annotated[float, POSITIVE] | None = None
    share: Annotated[float, Range(0, 1, below=True)] = 0.5
    power: Annotated[int, PowerOfTwo(16)] = 4
    layer_sizes: Annotated[tuple[Annotated[int, Range(1, 9)], ...], OneOrMore()] = (2, 3)
    cells: tuple[tuple[Annotated[int, Range(1, 9)], Annotated[int, Range(1, 4)]], ...] = ((1, 2),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": -1}, "--count must be from 0 to 8, got -1"),
        ({"count": 10**400}, "--count must be from 0 to 8, got 1000"),
        ({"rate": 0.0}, "--rate must be above 0, got 0.0"),
        ({"rate": float("inf")}, "--rate must be above 0, got inf"),
        ({"rate": float("nan")}, "--rate must be above 0, got nan"),
        ({"share": 1.0}, "--share must be at least 0 and below 1, got 1.0"),
        ({"power": 6}, "--power must be a power of two from 1 to 16, got 6"),
        ({"layer_sizes": ()}, r"--layer-sizes must be one or more numbers, got \(\)"),
        ({"layer_sizes": (3, 0)}, "--layer-sizes must be from 1 to 9, got 0"),
        ({"cells": ((1, 4), (9, 5))}, "--cells must be from 1 to 4, got 5"),
    ],
)
def test_a_refusal_names_flag_range_and_number(change: dict[str, Any], message: str) -> None:
    require_ranges(Example())
    with pytest.raises(ValueError, match=f"^{message}"):
        require_ranges(Example(**change))


@pytest.mark.parametrize(
    ("main", "arguments", "flag"),
    [
        ("train", "--threads -1", "--threads"),
        ("train", "--q-loss-coef nan", "--q-loss-coef"),
        ("train", "--hidden 16 -3", "--hidden"),
        ("train", "--hidden", "--hidden"),
        ("train", "--seed 1000000000000000000000", "--seed"),
        ("data.generate", "cube-single --processes 100000", "--processes"),
        ("evaluation.evaluate", "p.safetensors --temperature -1", "--temperature"),
        ("release.export", "p.safetensors --out q.safetensors --default-budget 0 1", "--default-budget"),
        ("release.import_released", "p.pkl --env cube --denoise-timesteps 3", "--denoise-timesteps"),
        ("results.cli", "p.safetensors --many-candidates 0", "--many-candidates"),
        ("sweep.cli", "--seeds 0 1 --cpus-per-run inf", "--cpus-per-run"),
    ],
)
def test_commands_refuse_in_one_line(main: str, arguments: str, flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *arguments.split()])
    with pytest.raises(SystemExit, match=rf"^sorl-\w+: {flag} must be .*, got [^\n]*$"):
        import_module(f"training.{main}").main()
