"""Transitions agree with the file, and the file's name selects the format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.conftest import TASK, point_maze_rows, write
from training.data.action_bounds import ActionBounds
from training.data.dataset import ACTION_LIMIT, Dataset, DatasetError, load_dataset
from training.data.formats.checks import warn_of_ranges
from training.data.formats.raw_dataset import Columns
from training.files import sha256_of


def test_transitions_agree_with_the_files_rows(dataset: Dataset, dataset_path: Path) -> None:
    rows = point_maze_rows()
    keep = ~rows["terminals"]
    train = dataset.train
    assert len(train) == 500
    np.testing.assert_array_equal(train.observations.numpy(), rows["observations"][keep])
    np.testing.assert_array_equal(train.next_observations.numpy()[:25], rows["observations"][1:26])
    np.testing.assert_array_equal(train.actions.numpy(), rows["actions"][keep].clip(-ACTION_LIMIT, ACTION_LIMIT))
    near = np.linalg.norm(rows["qpos"][keep] - np.array([20.0, 20.0]), axis=1) <= 1.0
    assert 0 < near.sum() < 500
    np.testing.assert_array_equal(train.rewards.numpy(), near - 1.0)  # at the current state
    np.testing.assert_array_equal(train.masks.numpy(), 1.0 - near)
    assert dataset.sha256 == sha256_of(dataset_path)
    assert dataset.control_hz == pytest.approx(10.0)


def test_windows_of_an_npz_file(dataset: Dataset, dataset_path: Path) -> None:
    """20 episodes of 25 transitions have 22 windows of four actions each; rewards after the goal do not count."""
    train = load_dataset(TASK, dataset_path, action_horizon=4, discount=0.5).train
    plain = dataset.train
    starts = [row for row in range(500) if row % 25 < 22]
    assert torch.equal(train.observations, plain.observations[starts])
    assert torch.equal(train.next_observations, plain.next_observations[[row + 3 for row in starts]])
    assert torch.equal(train.actions, torch.stack([plain.actions[row : row + 4].flatten() for row in starts]))
    goal = [row for row in range(500) if plain.masks[row] == 0]
    reached = [next((i for i in range(4) if row + i in goal), 4) for row in starts]
    assert {0, 1, 4} <= set(reached)
    assert train.rewards.tolist() == [-sum(0.5**i for i in range(steps)) for steps in reached]  # -1 until the goal
    assert train.masks.tolist() == [float(steps == 4) for steps in reached]
    loaded = load_dataset(TASK, dataset_path, action_horizon=4)
    assert loaded.action_dim == 2
    np.testing.assert_array_equal(loaded.observation_mean, dataset.observation_mean)


def test_batches_depend_on_the_generators_state_only(dataset: Dataset) -> None:
    generator = torch.Generator().manual_seed(3)
    state = generator.get_state()
    first = dataset.train.sample(8, generator)
    generator.set_state(state)
    again = dataset.train.sample(8, generator)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("name", ["data.csv", "data", "data.hdf5.gz"])
def test_other_formats_are_refused(name: str) -> None:
    with pytest.raises(DatasetError, match=f"{name}: .*expected .npz, .hdf5, .h5 or minari:NAME"):
        load_dataset(TASK, Path(name))


def test_suspicious_ranges_are_named(tmp_path: Path, dataset_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Actions that use less than a fifth of their range, observations above a million."""
    load_dataset(TASK, dataset_path)
    assert caplog.records == []
    rows = point_maze_rows()
    rows["actions"][:, 1] = 0.5 + 0.15 * rows["actions"][:, 1]
    rows["observations"] = rows["observations"].copy()
    rows["observations"][7, 0] = -2e6
    path = write(tmp_path / "odd.npz", rows)
    load_dataset(TASK, path)
    actions, observations = (record.getMessage() for record in caplog.records)
    assert actions.startswith(
        f"{path}: 'actions' use less than a fifth of their declared range: dimension 1 goes from 0.35"
    )
    assert actions.endswith(" of -1 to 1")
    assert observations.startswith(f"{path}: 'observations' are large, beyond 1e+06: dimension 0 goes from -2e+06 to 2")


def test_ranges_are_named_in_the_datas_units(caplog: pytest.LogCaptureFixture) -> None:
    column = np.linspace(-1, 1, 5)[:, None]
    columns = Columns(column, 0.1 * column, column, column, column, column > 2)
    warn_of_ranges("arm.hdf5", columns, ActionBounds((3.0,), (7.0,)))
    assert [record.getMessage() for record in caplog.records] == [
        "arm.hdf5: 'actions' use less than a fifth of their declared range: dimension 0 goes from 4.8 to 5.2 of 3 to 7"
    ]
