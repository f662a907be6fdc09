"""OGBench's layout: errors name file, array and row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training.conftest import TASK, point_maze_rows, write
from training.data.dataset import DatasetError, StatedUnits, load_dataset
from training.data.formats.npz import validate

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
def test_errors_name_array_and_row(tmp_path: Path, rows: Rows, message: str) -> None:
    path = write(tmp_path / "faulty.npz", rows)
    with pytest.raises(DatasetError, match=message) as raised:
        validate(path)
    assert "faulty.npz" in str(raised.value)


def test_missing_truncated_and_foreign_files_are_errors(tmp_path: Path, dataset_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        validate(tmp_path / "nothing.npz")
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(dataset_path.read_bytes()[:5000])
    with pytest.raises(DatasetError, match="truncated or not an npz"):
        validate(damaged)
    damaged.write_bytes(b"hello")
    with pytest.raises(DatasetError, match="truncated or not an npz"):
        validate(damaged)


def test_a_missing_validation_file_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "lonely.npz", point_maze_rows())
    (tmp_path / "lonely-val.npz").unlink()
    with pytest.raises(DatasetError, match=r"lonely-val\.npz does not exist"):
        load_dataset(TASK, path)


def test_data_of_another_environment_is_an_error(tmp_path: Path) -> None:
    rows = point_maze_rows()
    path = write(tmp_path / "wide.npz", rows | {"observations": np.tile(rows["observations"], 2)})
    with pytest.raises(DatasetError, match=r"'observations' have 4 dimensions, and .* has 2"):
        load_dataset(TASK, path)


def test_tasks_without_rewards_are_errors(dataset_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"takes its rewards from an OGBench task, and 'my-robot' is none"):
        load_dataset("my-robot", dataset_path)
    with pytest.raises(DatasetError, match="'pointmaze-medium-navigate-v0' has no rewards; name a single task"):
        load_dataset("pointmaze-medium-navigate-v0", dataset_path)


def test_a_stated_rate_applies_and_stated_bounds_are_refused(dataset_path: Path) -> None:
    assert load_dataset(TASK, dataset_path, stated=StatedUnits(control_hz=7.0)).control_hz == 7.0
    with pytest.raises(DatasetError, match="--action-low and --action-high do not apply"):
        load_dataset(TASK, dataset_path, stated=StatedUnits(None, (-2.0,), (2.0,)))
