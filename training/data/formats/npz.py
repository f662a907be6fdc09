"""OGBench's npz layout: NAME.npz and NAME-val.npz, which `ogbench` relabels with the task's rewards.

Arrays are `observations` (rows, obs_dim), `actions` (rows, action_dim) in [-1, 1], `terminals` (rows,), true at each
episode's last row, `qpos`, `qvel` and, for scenes with buttons, `button_states`. An episode of n rows gives n - 1
transitions.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from training.data.action_bounds import ActionBounds
from training.data.formats.checks import check_arrays, check_flags, require_keys, unit_actions, warn_of_unused
from training.data.formats.raw_dataset import Columns, DatasetError, RawDataset, StatedUnits
from training.files import sha256_of
from training.tasks import UnknownTask, make_task

REQUIRED = ("observations", "actions", "terminals", "qpos", "qvel")
OPTIONAL = ("button_states",)


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
    arrays = {file: validate(file) for file in files(path)}
    warn_of_unused(str(path), {name for file in files(path) for name in _names(file)}, (*REQUIRED, *OPTIONAL))
    try:
        env = make_task(task)
    except UnknownTask as error:
        raise DatasetError(
            f"{path}: npz data takes its rewards from --task. {error} "
            "(HDF5 and Minari data bring their own rewards, for any --task)"
        ) from None
    if getattr(env.unwrapped, "_reward_task_id", None) is None:
        raise DatasetError(f"{task!r} has no rewards; name a single task, e.g. cube-single-play-singletask-task2-v0")
    for file in files(path):
        _require_dimensions(file, arrays[file], task, env)
    del arrays
    train, val = ogbench.make_env_and_datasets(task, dataset_path=str(path), dataset_only=True, cur_env=env)
    return RawDataset(
        train=_columns(train),
        val=_columns(val),
        action_bounds=ActionBounds.unit(train["actions"].shape[1]),
        control_hz=control_hz(env) if stated.control_hz is None else stated.control_hz,
        sha256=sha256_of(path),
    )


def _columns(split: dict[str, np.ndarray]) -> Columns:
    """The columns of a split as `ogbench` returns it; its terminals are at the last transition of each episode."""
    columns = {key: split[key] for key in Columns._fields if key != "ends"}
    return Columns(**columns, ends=split["terminals"].astype(bool))


def _require_dimensions(file: Path, arrays: dict[str, np.ndarray], task: str, env: Any) -> None:
    """Arrays are as wide as the task's. Otherwise relabelling fails, or compares other coordinates with the goal."""
    base = env.unwrapped
    model = base._model if hasattr(base, "_model") else base.model
    widths = {
        "observations": env.observation_space.shape[0],
        "actions": env.action_space.shape[0],
        "qpos": model.nq,
        "qvel": model.nv,
    }
    if hasattr(base, "_num_buttons"):
        widths["button_states"] = base._num_buttons
        require_keys(str(file), arrays, ["button_states"])
    differing = [
        f"{key!r} has {arrays[key].shape[1]} dimensions, and the task has {width}"
        for key, width in widths.items()
        if arrays[key].shape[1] != width
    ]
    if differing:
        raise DatasetError(f"{file} is not data of {task}: {'; '.join(differing)}")


def validate(path: Path) -> dict[str, np.ndarray]:
    """Check one npz file. Returns the arrays that are used.

    Raises:
        DatasetError: the message names the array and the first faulty row.
    """
    if not path.exists():
        raise DatasetError(f"{path} does not exist; make it with `sorl-generate`, or pass --dataset")
    arrays = _load(path)
    require_keys(str(path), arrays, REQUIRED)
    check_arrays(str(path), arrays, flat=("terminals",))
    unit_actions(str(path), arrays["actions"], ActionBounds.unit(arrays["actions"].shape[1]))
    _validate_terminals(path, check_flags(str(path), "terminals", arrays["terminals"]))
    return arrays


def _names(path: Path) -> list[str]:
    """Names of all arrays of a file that `validate` accepts."""
    with np.load(path) as file:
        return list(file.files)


def _load(path: Path) -> dict[str, np.ndarray]:
    """The arrays that are used. Others are not read."""
    known = (*REQUIRED, *OPTIONAL)
    try:
        with path.open("rb") as opened:
            file = np.load(opened)
            if isinstance(file, np.ndarray):
                raise DatasetError(f"{path}: holds one array, as numpy.save writes it; expected numpy.savez's layout")
            return {key: _read_array(path, file, key) for key in known if key in file.files}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path}: truncated or not an npz file: {error}") from None


def _read_array(path: Path, file: Any, key: str) -> np.ndarray:
    try:
        return np.asarray(file[key])
    except ValueError as error:
        if "Object arrays" not in str(error):  # numpy has no type of its own for this
            raise
        raise DatasetError(f"{path}: {key!r} must hold numbers, and it holds Python objects (dtype object)") from None


def _validate_terminals(path: Path, terminals: np.ndarray) -> None:
    if not len(terminals) or not terminals[-1]:
        row = len(terminals) - 1
        raise DatasetError(f"{path}: 'terminals' row {row}, the last, must be 1: the file ends mid-episode")
    ends = np.flatnonzero(terminals)
    lengths = np.diff(ends, prepend=-1)
    if lengths.min() < 2:
        row = int(ends[np.argmin(lengths)])
        raise DatasetError(f"{path}: 'terminals' row {row} ends an episode of one row, which has no transition")
