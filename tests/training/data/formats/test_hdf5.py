"""D4RL's layout: the rows that give transitions, their units, and the errors of faulty files."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from kernels.backend import SampleBatch
from kernels.reference import ReferenceBackend
from policy import load_policy
from training.config import TrainConfig
from training.data.dataset import ACTION_LIMIT, Dataset, DatasetError, StatedUnits, load_dataset
from training.files import sha256_of
from training.train import train

Rows = dict[str, Any]


def robot_rows(rows: int = 60, seed: int = 0) -> Rows:
    """Episodes of ten rows; every third ends with a terminal, the others with a timeout. Observation = row number."""
    rng = np.random.default_rng(seed)
    last = np.arange(rows) % 10 == 9
    terminals = last & (np.arange(rows) // 10 % 3 == 2)
    return {
        "observations": np.arange(rows, dtype=np.float32)[:, None] + [0.0, 1000.0, 2000.0],
        "actions": rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
        "terminals": terminals,
        "timeouts": last & ~terminals,
    }


def write_hdf5(path: Path, rows: Rows) -> Path:
    with h5py.File(path, "w") as file:
        for key, value in rows.items():
            file.create_dataset(key, data=value, compression="gzip" if np.ndim(value) else None)
        file.create_dataset("infos/qpos", data=np.zeros((3, 3)))  # D4RL files have such arrays; they are ignored
        file.attrs["metadata"] = "ours"
    return path


def load(path: Path, **stated: Any) -> Dataset:
    return load_dataset("my-robot", path, stated=StatedUnits(**stated))


def test_no_transition_crosses_an_episodes_end(tmp_path: Path) -> None:
    """A row's transition leads to the next row. A timeout has no transition, and a terminal needs no next row."""
    rows = robot_rows()
    dataset = load(write_hdf5(tmp_path / "robot.hdf5", rows))
    kept = [row for row in range(60) if row % 10 < 9 or row in (29, 59)]
    train = dataset.train
    assert train.observations[:, 0].tolist() == kept
    assert train.masks.tolist() == [0.0 if row in (29, 59) else 1.0 for row in kept]
    going = train.masks == 1
    assert (train.next_observations[going, 0] - train.observations[going, 0]).unique().tolist() == [1.0]
    np.testing.assert_array_equal(train.rewards.numpy(), rows["rewards"][kept])
    np.testing.assert_array_equal(train.actions.numpy(), rows["actions"][kept].clip(-ACTION_LIMIT, ACTION_LIMIT))
    assert (dataset.obs_dim, dataset.action_dim, dataset.val) == (3, 2, None)
    assert dataset.sha256 == sha256_of(tmp_path / "robot.hdf5")
    assert dataset.control_hz == 20.0


def test_an_unfinished_last_episode_loses_its_last_row(tmp_path: Path) -> None:
    rows = {key: value[:55] for key, value in robot_rows().items()}
    dataset = load(write_hdf5(tmp_path / "robot.h5", rows))
    assert dataset.train.observations[-1, 0] == 53
    assert dataset.train.next_observations[-1, 0] == 54


def test_a_row_that_is_both_is_a_terminal(tmp_path: Path) -> None:
    rows = robot_rows()
    train = load(write_hdf5(tmp_path / "robot.hdf5", rows | {"timeouts": rows["timeouts"] | rows["terminals"]})).train
    assert train.observations[train.masks == 0, 0].tolist() == [29, 59]


def test_next_observations_in_the_file_are_used(tmp_path: Path) -> None:
    rows = robot_rows()
    following = rows["observations"] + 0.5
    dataset = load(write_hdf5(tmp_path / "robot.hdf5", rows | {"next_observations": following}))
    assert dataset.train.observations[:, 0].tolist() == list(range(60))
    assert (dataset.train.next_observations - dataset.train.observations).unique().tolist() == [0.5]
    assert (dataset.train.masks == 0).nonzero().flatten().tolist() == [29, 59]  # a timeout has a value after it


def test_four_hundred_rows_with_next_observations_are_as_many_transitions(tmp_path: Path) -> None:
    rows = robot_rows(400)
    last = np.arange(400) % 100 == 99
    rows |= {"terminals": np.zeros(400), "timeouts": last}
    assert len(load(write_hdf5(tmp_path / "plain.hdf5", rows)).train) == 396
    following = rows["observations"] + 1
    assert len(load(write_hdf5(tmp_path / "next.hdf5", rows | {"next_observations": following})).train) == 400
    endless = rows | {"next_observations": following, "timeouts": np.zeros(400)}
    assert len(load(write_hdf5(tmp_path / "endless.hdf5", endless)).train) == 400


def test_windows_stay_inside_episodes(tmp_path: Path) -> None:
    """Ends are terminals, timeouts, and rows below that are not what followed."""
    rows = robot_rows()
    load_windows = partial(load_dataset, "my-robot", action_horizon=4, discount=0.5)
    train = load_windows(write_hdf5(tmp_path / "plain.hdf5", rows)).train
    # Without next_observations an episode of ten rows has nine transitions, and ten if it ends with a terminal.
    starts = [row for row in range(60) if row % 10 <= (6 if row // 10 in (2, 5) else 5)]
    assert train.observations[:, 0].tolist() == starts
    assert train.masks.tolist() == [0.0 if row in (26, 56) else 1.0 for row in starts]
    expected = np.concatenate([rows["actions"][row : row + 4].ravel() for row in starts]).reshape(-1, 8)
    np.testing.assert_array_equal(train.actions.numpy(), expected.clip(-ACTION_LIMIT, ACTION_LIMIT))
    following = rows["observations"] + 1
    for change in ({}, {"terminals": np.zeros(60), "timeouts": np.zeros(60)}):
        with_next = rows | {"next_observations": following} | change
        if change:  # nothing but the observations says where episodes begin
            with_next["observations"] = with_next["observations"] + 5 * (np.arange(60) // 10 % 2)[:, None]
            with_next["next_observations"] = with_next["observations"] + 1
        train = load_windows(write_hdf5(tmp_path / "next.hdf5", with_next)).train
        assert len(train) == 6 * 7
        assert (train.next_observations - train.observations).unique().tolist() == [4.0]


@pytest.mark.parametrize("end", ["terminals", "timeouts"])
def test_episodes_of_one_step_train(tmp_path: Path, end: str) -> None:
    rows = robot_rows() | {"terminals": np.zeros(60), "timeouts": np.zeros(60)} | {end: np.ones(60)}
    rows["next_observations"] = rows["observations"] + 1
    path = write_hdf5(tmp_path / "steps.hdf5", rows)
    dataset = load(path)
    assert len(dataset.train) == 60
    assert dataset.train.masks.unique().tolist() == [0.0 if end == "terminals" else 1.0]
    config = TrainConfig(
        task="my-robot", dataset=path, run_dir=tmp_path / "run", updates=2, hidden=(8,), batch_size=8, threads=1
    )
    assert load_policy(train(config)).spec.provenance.updates == 2


def test_unused_arrays_and_groups_are_ignored_with_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_hdf5(tmp_path / "robot.hdf5", robot_rows() | {"next_observation": np.zeros(3)})
    load(path)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: ignored, as nothing uses it: infos, next_observation"
    ]


def test_actions_are_rescaled_by_the_files_bounds(tmp_path: Path) -> None:
    rows = robot_rows()
    low, high = np.array([-2.0, 0.0]), np.array([2.0, 10.0])
    unit = rows["actions"].astype(np.float64)
    rows |= {"actions": low + (unit + 1) / 2 * (high - low), "action_low": low, "action_high": high}
    dataset = load(write_hdf5(tmp_path / "robot.hdf5", rows))
    assert (dataset.action_bounds.low, dataset.action_bounds.high) == ((-2.0, 0.0), (2.0, 10.0))
    kept = dataset.train.observations[:, 0].int().numpy()
    np.testing.assert_allclose(dataset.train.actions.numpy(), unit[kept], atol=1e-6)


def test_stated_units_override_the_files(tmp_path: Path) -> None:
    rows = robot_rows()
    rows |= {"actions": 4 * rows["actions"], "action_low": [-1.0, -1.0], "action_high": [1.0, 1.0]}
    path = write_hdf5(tmp_path / "robot.hdf5", rows)
    with pytest.raises(DatasetError, match=r"'actions' row 0 leaves \[-1, 1\]: .*pass --action-low and --action-high"):
        load(path)
    dataset = load(path, control_hz=50.0, action_low=(-4.0,), action_high=(4.0, 8.0))
    assert (dataset.action_bounds.low, dataset.action_bounds.high) == ((-4.0, -4.0), (4.0, 8.0))
    assert dataset.control_hz == 50.0
    faults: list[tuple[Rows, str]] = [
        ({"action_low": (-4.0,)}, "pass both"),
        ({"action_low": (-4.0,), "action_high": (1.0, 1.0, 1.0)}, "action_high must be one number or 2"),
        ({"action_low": (-4.0,), "action_high": (-5.0,)}, "must be finite and ascending"),
        ({"action_low": (-4.0,), "action_high": (1.0,)}, r"leaves \[\[-4.0, -4.0\], \[1.0, 1.0\]\]"),
    ]
    for stated, message in faults:
        with pytest.raises(DatasetError, match=message):
            load(path, **stated)


def spoil(key: str, row: int, value: float) -> Rows:
    rows = robot_rows()
    rows[key] = rows[key].astype(np.float64)
    rows[key][row] = value
    return rows


def without(key: str) -> Rows:
    return {name: value for name, value in robot_rows().items() if name != key}


FAULTS: list[tuple[Rows, str]] = [
    *((without(key), f"array '{key}' is missing") for key in robot_rows()),
    (robot_rows() | {"rewards": np.zeros(59)}, "'rewards' has 59 rows, and 'observations' has 60"),
    (robot_rows() | {"rewards": np.zeros((60, 1))}, r"'rewards' must have 1 axes, and its shape is \(60, 1\)"),
    (robot_rows() | {"actions": np.zeros(60)}, r"'actions' must have 2 axes, and its shape is \(60,\)"),
    (robot_rows() | {"observations": 3.0}, r"'observations' must have 2 axes, and its shape is \(\)"),
    (robot_rows() | {"observations": np.zeros((60, 8, 8, 3))}, "'observations' must have 2 axes"),
    (robot_rows() | {"rewards": np.array([b"a"] * 60)}, "'rewards' must hold numbers, and its dtype is"),
    (robot_rows() | {"next_observations": np.zeros((60, 2))}, r"'next_observations' must be \(60, 3\)"),
    (robot_rows() | {"action_low": [-1.0, -1.0]}, "go together"),
    (robot_rows() | {"action_low": [1.0, 1.0], "action_high": [-1.0, -1.0]}, "ascending"),
    (robot_rows() | {"terminals": np.zeros(60), "timeouts": np.zeros(60)}, "where do episodes end"),
    (robot_rows() | {"terminals": np.zeros(60), "timeouts": np.ones(60)}, "all are timeouts; add 'next_observations'"),
    ({key: np.zeros(0) for key in robot_rows()}, r"'observations' has no rows, and its shape is \(0,\)"),
    ({key: value[:0] for key, value in robot_rows().items()}, r"'observations' has no rows, and its shape is \(0, 3\)"),
    (spoil("observations", 17, np.nan), "'observations' row 17 is NaN or infinite"),
    (spoil("rewards", 18, 1e300), "'rewards' row 18 is NaN or infinite"),
    (spoil("actions", 33, 1.5), r"'actions' row 33 leaves \[-1, 1\]: \[1.5, 1.5\]; .*--action-low"),
    (spoil("terminals", 12, 0.5), "'terminals' row 12 must be 0 or 1"),
    (spoil("timeouts", 3, -1), "'timeouts' row 3 must be 0 or 1"),
]


@pytest.mark.parametrize(("rows", "message"), FAULTS)
def test_errors_name_array_and_row(tmp_path: Path, rows: Rows, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as raised:
        load(write_hdf5(tmp_path / "faulty.hdf5", rows))
    assert "faulty.hdf5" in str(raised.value)


def test_missing_truncated_and_foreign_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        load(tmp_path / "nothing.hdf5")
    path = write_hdf5(tmp_path / "robot.hdf5", robot_rows())
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"hello", b""):
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match="truncated or not an HDF5 file"):
            load(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("observations/image", data=np.zeros(3))
    with pytest.raises(DatasetError, match="'observations' is a group"):
        load(path)


def test_without_h5py_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DatasetError, match=r"needs h5py: pip install 'sorl-serve\[data\]'"):
        load(tmp_path / "robot.hdf5")


def test_a_policy_is_trained_and_acts_in_the_robots_units(tmp_path: Path) -> None:
    rows = robot_rows()
    rows |= {"actions": 5 + 2 * rows["actions"]}
    path = write_hdf5(tmp_path / "robot.hdf5", rows)
    config = TrainConfig(
        task="my-robot", dataset=path, run_dir=tmp_path / "run", updates=3, hidden=(16, 16), batch_size=16, threads=1
    )
    with pytest.raises(DatasetError, match="pass --action-low and --action-high"):
        train(config)
    config = TrainConfig(**{**vars(config), "control_hz": 5.0, "action_low": (3.0,), "action_high": (7.0,)})
    policy = load_policy(train(config))
    spec = policy.spec
    assert (spec.control_hz, spec.action_low, spec.action_high) == (5.0, (3.0, 3.0), (7.0, 7.0))
    assert spec.provenance.environment == "my-robot"
    assert spec.provenance.dataset_sha256 == sha256_of(path)
    result = ReferenceBackend(policy).sample_and_score(SampleBatch.of(rows["observations"][:4], 8, 4, 0))
    action = spec.action_to_environment(result.action)
    assert action.shape == (4, 2)
    assert ((action >= 3) & (action <= 7)).all()
