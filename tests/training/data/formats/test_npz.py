"""OGBench's layout: errors name file, array and row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

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
    ({key: np.zeros(0) for key in point_maze_rows()}, r"'observations' has no rows"),
    ({key: array[:0] for key, array in point_maze_rows().items()}, r"'observations' has no rows"),
    (point_maze_rows() | {"qvel": np.zeros((520, 0))}, r"'qvel' has no columns, and its shape is \(520, 0\)"),
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
    with pytest.raises(DatasetError, match=r"wide\.npz is not data of .*: 'observations' has 4 dimensions, and"):
        load_dataset(TASK, path)


CUBE = "cube-single-play-singletask-task2-v0"
SCENE = "scene-play-singletask-task2-v0"


def test_data_of_another_task_is_named_before_it_is_relabelled(dataset_path: Path) -> None:
    with pytest.raises(DatasetError) as raised:
        load_dataset(CUBE, dataset_path)
    assert str(raised.value) == (
        f"{dataset_path} is not data of {CUBE}: 'observations' has 2 dimensions, and the task has 28; 'actions' has 2 "
        "dimensions, and the task has 5; 'qpos' has 2 dimensions, and the task has 21; 'qvel' has 2 dimensions, and "
        "the task has 20"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qpos": np.zeros((520, 3))}, "not data of .*: 'qpos' has 3 dimensions, and the task has 2$"),
        ({"qvel": np.zeros((520, 1))}, "not data of .*: 'qvel' has 1 dimensions, and the task has 2$"),
        ({"actions": np.zeros((520, 3))}, "not data of .*: 'actions' has 3 dimensions, and the task has 2$"),
    ],
)
@pytest.mark.parametrize("split", ["maze.npz", "maze-val.npz"])
def test_arrays_of_another_width_are_named(tmp_path: Path, change: Rows, message: str, split: str) -> None:
    path = write(tmp_path / "maze.npz", point_maze_rows())
    np.savez(tmp_path / split, **(point_maze_rows() | change))
    with pytest.raises(DatasetError, match=f"{split} is {message}"):
        load_dataset(TASK, path)


def test_button_states_are_needed_where_the_task_has_buttons(tmp_path: Path) -> None:
    rows = {"observations": 40, "actions": 5, "qpos": 25, "qvel": 24}
    arrays = {key: np.zeros((4, width), np.float32) for key, width in rows.items()}
    arrays["terminals"] = np.array([0, 0, 0, 1])
    with pytest.raises(DatasetError, match=r"scene\.npz: array 'button_states' is missing"):
        load_dataset(SCENE, write(tmp_path / "scene.npz", arrays))
    arrays["button_states"] = np.zeros((4, 3), np.int64)
    with pytest.raises(DatasetError, match=r"'button_states' has 3 dimensions, and the task has 2$"):
        load_dataset(SCENE, write(tmp_path / "scene.npz", arrays))
    arrays["button_states"] = np.zeros((4, 2), np.int64)
    assert len(load_dataset(SCENE, write(tmp_path / "scene.npz", arrays)).train) == 3


def test_unused_arrays_are_ignored_with_one_line(
    tmp_path: Path, dataset_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever they are: other axes, texts, Python objects."""
    unused = {"rewards": np.zeros(520), "note": np.array("ours"), "infos": np.array([{"a": 1}])}
    path = tmp_path / "maze.npz"
    for file in (path, tmp_path / "maze-val.npz"):
        np.savez(file, **point_maze_rows(), **unused)
    loaded, plain = load_dataset(TASK, path), load_dataset(TASK, dataset_path)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: ignored, as nothing uses it: infos, note, rewards"
    ]
    for ours, theirs in zip(loaded.train.columns(), plain.train.columns(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_is_no_table_of_numbers_is_said(tmp_path: Path, dataset_path: Path) -> None:
    path = tmp_path / "faulty.npz"
    np.savez(path, **(point_maze_rows() | {"observations": np.array([None] * 520)}))
    with pytest.raises(DatasetError, match=r"faulty\.npz: 'observations' must hold numbers, .*Python objects"):
        validate(path)
    with path.open("wb") as file:
        np.save(file, np.zeros((3, 2)))
    with pytest.raises(DatasetError, match=r"faulty\.npz: holds one array"):
        validate(path)
    np.savez_compressed(path, **point_maze_rows())
    whole = bytearray(path.read_bytes())
    whole[200:400] = bytes(200)
    path.write_bytes(whole)
    with pytest.raises(DatasetError, match=r"faulty\.npz: truncated or not an npz file"):
        validate(path)


def test_tasks_without_rewards_are_errors(dataset_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"takes its rewards from --task. OGBench has no task 'my-robot'"):
        load_dataset("my-robot", dataset_path)
    with pytest.raises(DatasetError, match="'pointmaze-medium-navigate-v0' has no rewards; name a single task"):
        load_dataset("pointmaze-medium-navigate-v0", dataset_path)


def test_a_stated_rate_applies_and_stated_bounds_are_refused(dataset_path: Path) -> None:
    assert load_dataset(TASK, dataset_path, stated=StatedUnits(control_hz=7.0)).control_hz == 7.0
    with pytest.raises(DatasetError, match="--action-low and --action-high do not apply"):
        load_dataset(TASK, dataset_path, stated=StatedUnits(None, (-2.0,), (2.0,)))
