"""An exported policy has its own measurements, and the seeds that choose a budget are not those that report it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kernels.backend import SampleBatch
from kernels.reference import ReferenceBackend
from policy import Budget, CheckpointError, Measurement, ObservationKey, load_policy, save_policy
from tests.policies import random_policy
from training.episodes import EpisodeResult, Job
from training.files import sha256_of, write_json
from training.release.card import model_card
from training.release.export import ExportConfig, export
from training.results.plan import Plan, Subject
from training.results.protocol import Cell, Protocol, Seeds
from training.results.record import Record, record_folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "policy.safetensors"
    save_policy(random_policy(), path)
    return path


def cell(n: int, m: int, success: float = 0.9) -> dict[str, Any]:
    return {"num_candidates": n, "num_steps": m, "success": success, "low": 0, "high": 1, "episodes": 5, "steps": 1}


def report(path: Path, source: Path, first_seed: int, *cells: dict[str, Any]) -> Path:
    content = {"policy_sha256": sha256_of(source), "first_seed": first_seed, "episodes": 5, "cells": list(cells)}
    write_json(path, content)
    return path


@pytest.fixture
def config(source: Path, tmp_path: Path) -> ExportConfig:
    return ExportConfig(
        policy=source.parent,
        out=tmp_path / "shipped.safetensors",
        frontier=(
            report(tmp_path / "frontier.json", source, 0, cell(8, 4)),
            report(tmp_path / "more.json", source, 0, cell(1, 1, 0.8)),
        ),
        headline=report(tmp_path / "headline.json", source, 5, cell(8, 4)),
        notes="trained on a Sunday",
    )


def test_measurements_are_stored_and_weights_are_unchanged(config: ExportConfig, source: Path) -> None:
    exported = export(config)
    spec = load_policy(config.out).spec
    assert exported.spec == spec
    assert spec.name == "shipped"
    assert spec.frontier == (Measurement(1, 1, 0.8, 0, 1, 5), Measurement(8, 4, 0.9, 0, 1, 5))
    assert spec.headline == spec.frontier[1]
    assert spec.default_budget == Budget(8, 4)
    assert spec.provenance.notes == "trained on a Sunday"
    assert config.out.with_suffix(".md").read_text() == model_card(exported, "shipped.safetensors")
    for name, tensor in load_policy(source).state_dict().items():
        assert torch.equal(exported.state_dict()[name], tensor)
    batch = SampleBatch.of(np.ones((2, 11), np.float32), 4, 2, 0)
    ours, theirs = (ReferenceBackend(load_policy(path)).sample_and_score(batch) for path in (source, config.out))
    np.testing.assert_array_equal(ours.action, theirs.action)


def test_parts_of_the_observation_are_named(config: ExportConfig) -> None:
    exported = export(replace(config, observation_keys="joint_pos=7,gripper=4"))
    assert load_policy(config.out).spec.observation_keys == (
        ObservationKey("joint_pos", 7),
        ObservationKey("gripper", 4),
    )
    assert "| observations | 11 (joint_pos 7, gripper 4), raw |" in model_card(exported, "shipped.safetensors")
    kept = export(replace(config, policy=config.out, frontier=(), headline=None))
    assert kept.spec.observation_keys == exported.spec.observation_keys
    with pytest.raises(CheckpointError, match=r"observation_keys must add up to 11 \(obs_dim\), found 8"):
        export(replace(config, observation_keys="joint_pos=7,gripper=1"))
    with pytest.raises(ValueError, match="--observation-keys must be NAME=SIZE"):
        replace(config, observation_keys="joint_pos:7")


def test_a_report_of_another_file_is_refused(config: ExportConfig, source: Path) -> None:
    save_policy(random_policy(seed=1), source)
    with pytest.raises(ValueError, match="measured another file"):
        export(config)


def test_reports_of_other_selection_rules_are_refused(config: ExportConfig, tmp_path: Path) -> None:
    path = tmp_path / "headline.json"
    write_json(path, json.loads(path.read_text()) | {"select": "random"})
    with pytest.raises(ValueError, match="executed the random candidate"):
        export(config)
    write_json(path, json.loads(path.read_text()) | {"select": "best"})
    export(config)


def test_measurements_of_a_policy_of_chunks_executed_whole_chunks(config: ExportConfig, source: Path) -> None:
    save_policy(random_policy(action_horizon=5), source)
    assert config.headline is not None
    for path in (*config.frontier, config.headline):
        content = json.loads(path.read_text())
        cells = [cell | {"execute": 5} for cell in content["cells"]]
        write_json(path, content | {"policy_sha256": sha256_of(source), "cells": cells})
    exported = export(config)
    assert (exported.spec.action_horizon, exported.spec.frontier[1].success) == (5, 0.9)
    assert "| actions | 3 in [-1, 1], at 20 Hz, 5 at once |" in model_card(exported, "shipped.safetensors")
    cells[0]["execute"] = 2
    write_json(config.headline, json.loads(config.headline.read_text()) | {"cells": cells})
    with pytest.raises(ValueError, match=r"headline\.json: a cell executed 2 of a reply's 5 actions"):
        export(config)


def test_the_coherence_of_committed_actions_is_set_and_shown(source: Path, tmp_path: Path) -> None:
    chunks = random_policy(obs_dim=2, action_dim=2, action_horizon=4, prefix_max=3)
    save_policy(chunks, tmp_path / "chunks.safetensors")
    exported = export(ExportConfig(tmp_path / "chunks.safetensors", tmp_path / "out.safetensors", coherence=0.75))
    assert (exported.spec.coherence, exported.spec.prefix_max) == (0.75, 3)
    card = (tmp_path / "out.md").read_text()
    assert "| committed actions | the first 3 are an input; coherence 0.75 unless a request says another |" in card
    export(ExportConfig(source, tmp_path / "single.safetensors"))
    assert "committed" not in (tmp_path / "single.md").read_text()


def test_the_temperature_is_set_and_shown(config: ExportConfig, source: Path, tmp_path: Path) -> None:
    """And what it was measured at is the temperature that it is exported with."""
    with pytest.raises(ValueError, match=r"measured the policy at temperature 1, and it is exported with 0\.42"):
        export(replace(config, temperature=0.42))
    assert config.headline is not None
    for path in (*config.frontier, config.headline):
        write_json(path, json.loads(path.read_text()) | {"temperature": 0.42})
    with pytest.raises(ValueError, match=r"measured the policy at temperature 0\.42, and it is exported with 1"):
        export(config)
    exported = export(replace(config, temperature=0.42))
    assert load_policy(config.out).spec.temperature == 0.42
    assert exported.spec.headline is not None
    assert "| temperature | 0.42 unless a request says another |" in config.out.with_suffix(".md").read_text()
    again = ExportConfig(config.out, tmp_path / "again.safetensors")
    assert export(again).spec.headline == exported.spec.headline
    bare = export(replace(again, temperature=0.5)).spec  # what was measured at another is left out
    assert (bare.temperature, bare.frontier, bare.headline) == (0.5, (), None)
    export(ExportConfig(source, tmp_path / "plain.safetensors"))
    assert "temperature" not in (tmp_path / "plain.md").read_text()


def test_as_trained_takes_no_measurements(config: ExportConfig) -> None:
    with pytest.raises(ValueError, match="--as-trained removes measurements; leave out --frontier"):
        replace(config, as_trained=True)


def test_a_policy_is_not_overwritten_by_its_card(config: ExportConfig) -> None:
    with pytest.raises(ValueError, match=r"--out must name the policy's file, e\.g\. .*policy\.safetensors, since"):
        replace(config, out=Path("policy.md"))


def test_a_headline_on_selection_seeds_is_refused(config: ExportConfig, source: Path, tmp_path: Path) -> None:
    overlapping = report(tmp_path / "headline.json", source, 4, cell(8, 4))
    with pytest.raises(ValueError, match="share 1 episode seeds"):
        export(replace(config, headline=overlapping))


def test_a_headline_of_two_cells_is_refused(config: ExportConfig, source: Path, tmp_path: Path) -> None:
    two = report(tmp_path / "headline.json", source, 5, cell(1, 1), cell(8, 4))
    with pytest.raises(ValueError, match="a headline is one cell, found 2"):
        export(replace(config, headline=two))


def test_a_damaged_policy_is_refused(config: ExportConfig, source: Path) -> None:
    source.write_bytes(source.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="truncated"):
        export(config)


PROTOCOL = Protocol(num_candidates=(1, 8), num_steps=(4,), selection=Seeds(10, 4), report=Seeds(20, 5))
SUCCESSES = {Cell(1, 4): 1, Cell(8, 4): 3}
"""Successes among the 4 selection episodes."""


def measured_results(folder: Path, version: str, reported: int | None = 4, cells: tuple[Cell, ...] = ()) -> Path:
    """What `sorl-results` leaves: the grid, or `cells`; the best cell on report seeds; a cell of random choice."""
    Plan("task", PROTOCOL, (Subject("it", version, 1),), ()).write(folder / "plan.json")
    facts = {"policy_sha256": version, "task": "task", "engine": "reference/fp32/cpu"}
    record = Record.open_or_create(record_folder(folder, version), facts)
    for cell in cells or tuple(SUCCESSES):
        record.add(episode(cell, seed, seed < 10 + SUCCESSES[cell]) for seed in PROTOCOL.selection.range)
    if reported is not None:
        record.add(episode(Cell(8, 4), seed, seed < 20 + reported) for seed in PROTOCOL.report.range)
    record.add(episode(Cell(8, 4, "random"), seed, True) for seed in PROTOCOL.selection.range)
    return folder


def episode(cell: Cell, seed: int, success: bool) -> EpisodeResult:
    job = Job(seed, cell.num_candidates, cell.num_steps, select=cell.select)
    return EpisodeResult(job, success, 9, -1.0, (float(seed),), -2.0, -3.0, -4.0, False, 0.1)


def test_grid_and_best_cell_of_a_results_folder_are_stored(source: Path, tmp_path: Path) -> None:
    results = measured_results(tmp_path / "task", sha256_of(source))
    spec = export(ExportConfig(source, tmp_path / "out.safetensors", results=results)).spec
    assert [(m.num_candidates, m.num_steps, m.success, m.episodes) for m in spec.frontier] == [
        (1, 4, 0.25, 4),
        (8, 4, 0.75, 4),
    ]
    assert spec.headline is not None
    assert (spec.headline.num_candidates, spec.headline.success, spec.headline.episodes) == (8, 0.8, 5)
    assert spec.headline.low < 0.8 < spec.headline.high
    assert spec.default_budget == Budget(8, 4)


def test_another_cell_may_be_the_headline_of_a_results_folder(source: Path, tmp_path: Path) -> None:
    results = measured_results(tmp_path / "task", sha256_of(source))
    config = ExportConfig(source, tmp_path / "out.safetensors", results=results)
    chosen = report(tmp_path / "headline.json", source, 30, cell(4, 2))
    spec = export(replace(config, headline=chosen)).spec
    assert spec.headline == Measurement(4, 2, 0.9, 0, 1, 5)
    assert spec.default_budget == Budget(4, 2)
    assert len(spec.frontier) == 2
    chose = report(tmp_path / "headline.json", source, 13, cell(4, 2))
    with pytest.raises(ValueError, match="share 1 episode seeds"):
        export(replace(config, headline=chose))


def test_without_report_episodes_there_is_no_headline(source: Path, tmp_path: Path) -> None:
    results = measured_results(tmp_path / "task", sha256_of(source), reported=None)
    spec = export(ExportConfig(source, tmp_path / "out.safetensors", results=results)).spec
    assert spec.headline is None
    assert len(spec.frontier) == 2
    assert spec.default_budget == Budget(8, 4)


def test_without_a_headline_the_default_is_the_best_cell_of_least_compute(
    config: ExportConfig, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cells = cell(64, 8, 0.4), cell(16, 4, 0.8), cell(8, 4, 0.8), cell(4, 8, 0.8), cell(1, 1, 0.2)
    grid = report(tmp_path / "grid.json", source, 0, *cells)
    spec = export(replace(config, frontier=(grid,), headline=None)).spec
    assert spec.headline is None
    assert spec.default_budget == Budget(8, 4)  # (4, 8) is as much compute, and more steps
    assert caplog.messages == []


def test_a_policy_without_measurements_keeps_its_default(source: Path, tmp_path: Path) -> None:
    exported = export(ExportConfig(source, tmp_path / "out.safetensors"))
    assert exported.spec.default_budget == load_policy(source).spec.default_budget


@pytest.mark.parametrize(
    ("given", "warnings"),
    [
        (None, []),
        ((1, 1), []),
        ((5, 3), []),  # not measured
        ((64, 8), ["N = 64, M = 8 is dominated: N = 8, M = 4 costs less and measured 90.0 % against its 40.0 %"]),
        ((16, 4), ["N = 16, M = 4 is dominated: N = 8, M = 4 costs less and measured 90.0 % against its 90.0 %"]),
    ],
)
def test_a_default_that_is_dominated_is_taken_with_a_warning(
    config: ExportConfig,
    source: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    given: tuple[int, int] | None,
    warnings: list[str],
) -> None:
    cells = cell(1, 1, 0.2), cell(8, 4, 0.9), cell(16, 4, 0.9), cell(64, 8, 0.4)
    grid = report(tmp_path / "grid.json", source, 0, *cells)
    spec = export(replace(config, frontier=(grid,), default_budget=given)).spec
    assert spec.default_budget == Budget(*(given or (8, 4)))
    assert caplog.messages == [f"the default budget {warning}" for warning in warnings]


def test_a_headline_of_a_dominated_cell_is_the_default_with_a_warning(
    config: ExportConfig, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grid = report(tmp_path / "grid.json", source, 0, cell(1, 1, 1.0), cell(8, 4, 0.9))
    spec = export(replace(config, frontier=(grid,))).spec
    assert spec.default_budget == Budget(8, 4)
    assert len(caplog.messages) == 1
    assert "N = 1, M = 1 costs less and measured 100.0 %" in caplog.text


def test_results_without_this_policys_grid_are_refused(config: ExportConfig, source: Path, tmp_path: Path) -> None:
    of_another = measured_results(tmp_path / "another", "0" * 64)
    with pytest.raises(ValueError, match="holds no measurement of this file"):
        export(ExportConfig(source, config.out, results=of_another))
    partial = measured_results(tmp_path / "partial", sha256_of(source), cells=(Cell(1, 4),))
    with pytest.raises(ValueError, match="the grid is not complete"):
        export(ExportConfig(source, config.out, results=partial))
    with pytest.raises(ValueError, match="either --results or --frontier"):
        export(replace(config, results=partial))
