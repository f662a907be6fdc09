"""Validation errors name file, array and row; transitions are what the file says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.conftest import TASK, point_maze_rows, write
from training.dataset import ACTION_LIMIT, Dataset, DatasetError, load_dataset, validate
from training.files import sha256_of

Rows = dict[str, np.ndarray]


def spoil(key: str, row: int, value: float) -> Rows:
    rows = point_maze_rows()
    rows[key] = rows[key].astype(np.float32)
    rows[key][row] = value
    return rows


def without(key: str) -> Rows:
    return {name: array for name, array in point_maze_rows().items() if name != key}


FAULTS: list[tuple[Rows, str]] = [
    (without("actions"), "array 'actions' is missing"),
    (point_maze_rows() | {"qpos": np.zeros((3, 2), np.float32)}, "'qpos' has 3 rows, and 'observations' has 520"),
    (
        point_maze_rows() | {"actions": np.zeros(520, np.float32)},
        r"'actions' must have 2 axes, and its shape is \(520,\)",
    ),
    (spoil("observations", 17, np.nan), "'observations' row 17 is NaN or infinite"),
    (spoil("qvel", 4, np.inf), "'qvel' row 4 is NaN or infinite"),
    (spoil("actions", 33, 1.5), "'actions' row 33 leaves"),
    (spoil("terminals", 12, 0.5), "'terminals' row 12 must be 0 or 1"),
    (spoil("terminals", 519, 0), "'terminals' row 519, the last, must be 1"),
    (spoil("terminals", 0, 1), "'terminals' row 0 ends an episode of one row"),
]


@pytest.mark.parametrize(("rows", "message"), FAULTS)
def test_faults_are_named(tmp_path: Path, rows: Rows, message: str) -> None:
    path = write(tmp_path / "faulty.npz", rows)
    with pytest.raises(DatasetError, match=message) as raised:
        validate(path)
    assert "faulty.npz" in str(raised.value)


def test_absent_truncated_and_foreign_files(tmp_path: Path, dataset_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        validate(tmp_path / "nothing.npz")
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(dataset_path.read_bytes()[:5000])
    with pytest.raises(DatasetError, match="truncated or not an npz"):
        validate(damaged)
    damaged.write_bytes(b"hello")
    with pytest.raises(DatasetError, match="truncated or not an npz"):
        validate(damaged)


def test_a_missing_validation_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "lonely.npz", point_maze_rows())
    (tmp_path / "lonely-val.npz").unlink()
    with pytest.raises(DatasetError, match=r"lonely-val\.npz does not exist"):
        load_dataset(TASK, path)


def test_data_of_another_environment(tmp_path: Path) -> None:
    rows = point_maze_rows()
    path = write(tmp_path / "wide.npz", rows | {"observations": np.tile(rows["observations"], 2)})
    with pytest.raises(DatasetError, match=r"'observations' have 4 dimensions, and .* has 2"):
        load_dataset(TASK, path)


def test_transitions_follow_the_rows(dataset: Dataset, dataset_path: Path) -> None:
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


def test_batches_repeat_from_the_generators_state(dataset: Dataset) -> None:
    generator = torch.Generator().manual_seed(3)
    state = generator.get_state()
    first = dataset.train.sample(8, generator)
    generator.set_state(state)
    again = dataset.train.sample(8, generator)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
