"""OGBench's npz layout: NAME.npz and NAME-val.npz, which `ogbench` relabels with the task's rewards.

Arrays are `observations` (rows, obs_dim), `actions` (rows, action_dim) in [-1, 1], `terminals` (rows,), true at each
episode's last row, `qpos`, `qvel` and, for scenes with buttons, `button_states`. An episode of n rows gives n - 1
transitions.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import gymnasium
import numpy as np

from training.data.action_bounds import ActionBounds
from training.data.formats.checks import check_arrays, check_flags, require_keys, unit_actions
from training.data.formats.raw_dataset import Columns, DatasetError, RawDataset, StatedUnits
from training.files import sha256_of

REQUIRED = ("observations", "actions", "terminals", "qpos", "qvel")


def files(path: Path) -> tuple[Path, Path]:
    """The training file `path` and its validation file."""
    return path, path.with_name(f"{path.stem}-val.npz")


def read(task: str, path: Path, stated: StatedUnits) -> RawDataset:
    """Read and validate `path` and its validation file, relabelled with the rewards of `task`.

    Raises:
        DatasetError: a file is missing or damaged, its arrays cannot be trained on, or `task` is not a single-task
            environment of OGBench.
    """
    import ogbench
    from sorl_client.episodes import control_hz

    if stated.action_low is not None or stated.action_high is not None:
        raise DatasetError(f"{path}: --action-low and --action-high do not apply; npz data has actions in [-1, 1]")
    for file in files(path):
        validate(file)
    try:
        env, train, val = ogbench.make_env_and_datasets(task, dataset_path=str(path))
    except gymnasium.error.Error as error:
        raise DatasetError(
            f"{path}: npz data takes its rewards from an OGBench task, and {task!r} is none ({error}); "
            "HDF5 and Minari data bring their own rewards"
        ) from None
    if "rewards" not in train:
        raise DatasetError(f"{task!r} has no rewards; name a single task, e.g. cube-single-play-singletask-task2-v0")
    for split in (train, val):
        if split["observations"].shape[1:] != env.observation_space.shape:
            raise DatasetError(
                f"{path}: 'observations' have {split['observations'].shape[1]} dimensions, "
                f"and {task} has {env.observation_space.shape[0]}"
            )
    return RawDataset(
        train=_columns(train),
        val=_columns(val),
        action_bounds=ActionBounds.unit(train["actions"].shape[1]),
        control_hz=control_hz(env) if stated.control_hz is None else stated.control_hz,
        sha256=sha256_of(path),
    )


def _columns(split: dict[str, np.ndarray]) -> Columns:
    return Columns(*(split[key] for key in Columns._fields))


def validate(path: Path) -> None:
    """Check one npz file.

    Raises:
        DatasetError: the message names the array and the first faulty row.
    """
    if not path.exists():
        raise DatasetError(f"{path} does not exist; make it with `sorl-generate`, or pass --dataset")
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            arrays = {key: file[key] for key in file.files}
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, KeyError) as error:
        raise DatasetError(f"{path}: truncated or not an npz file: {error}") from None
    require_keys(str(path), arrays, REQUIRED)
    check_arrays(str(path), arrays, flat=("terminals",))
    unit_actions(str(path), arrays["actions"], ActionBounds.unit(arrays["actions"].shape[1]))
    _validate_terminals(path, check_flags(str(path), "terminals", arrays["terminals"]))


def _validate_terminals(path: Path, terminals: np.ndarray) -> None:
    if not len(terminals) or not terminals[-1]:
        row = len(terminals) - 1
        raise DatasetError(f"{path}: 'terminals' row {row}, the last, must be 1: the file ends mid-episode")
    ends = np.flatnonzero(terminals)
    lengths = np.diff(ends, prepend=-1)
    if lengths.min() < 2:
        row = int(ends[np.argmin(lengths)])
        raise DatasetError(f"{path}: 'terminals' row {row} ends an episode of one row, which has no transition")
