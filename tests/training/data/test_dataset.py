"""Transitions agree with the file, and the file's name selects the format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.conftest import TASK, point_maze_rows
from training.data.dataset import ACTION_LIMIT, Dataset, DatasetError, load_dataset
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
