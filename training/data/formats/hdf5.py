"""D4RL's HDF5 layout: rows in temporal order, all episodes in one array.

Required are `observations` (rows, obs_dim), `actions` (rows, action_dim), `rewards`, `terminals` and `timeouts`
(rows,). `next_observations` (rows, obs_dim) is optional. A terminal ends the task: no value is bootstrapped. A timeout
only cuts the recording. Without `next_observations` what followed is unknown, and its row gives no transition (as in
`d4rl.qlearning_dataset`); with them every row gives one. A row that is both is a terminal. An episode ends at either,
and where `next_observations` are not the observations of the row below. `action_low` and `action_high` (action_dim,)
are this project's addition to the layout: the bounds of the actions' units.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.data.formats.checks import (
    OTHER_UNITS_HINT,
    check_arrays,
    check_flags,
    require_keys,
    unit_actions,
    warn_of_unused,
)
from training.data.formats.raw_dataset import DEFAULT_CONTROL_HZ, Columns, DatasetError, RawDataset, StatedUnits
from training.files import sha256_of

REQUIRED = ("observations", "actions", "rewards", "terminals", "timeouts")
OPTIONAL = ("next_observations", "action_low", "action_high")


def read(path: Path, stated: StatedUnits) -> RawDataset:
    """Read and validate `path`.

    Raises:
        DatasetError: h5py is not installed, the file is missing or damaged, or its arrays cannot be trained on.
    """
    where = str(path)
    arrays = _load(path)
    require_keys(where, arrays, REQUIRED)
    limits = [arrays.pop(key) for key in ("action_low", "action_high") if key in arrays]
    if len(limits) == 1:
        raise DatasetError(f"{where}: 'action_low' and 'action_high' go together, and one is missing")
    check_arrays(where, arrays, flat=("rewards", "terminals", "timeouts"))
    bounds = stated.action_bounds(where, arrays["actions"].shape[1], (limits[0], limits[1]) if limits else None)
    return RawDataset(
        train=_transitions(where, arrays, unit_actions(where, arrays["actions"], bounds, OTHER_UNITS_HINT)),
        val=None,
        action_bounds=bounds,
        control_hz=DEFAULT_CONTROL_HZ if stated.control_hz is None else stated.control_hz,
        sha256=sha256_of(path),
    )


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        import h5py
    except ImportError:
        raise DatasetError(f"{path}: reading HDF5 needs h5py: pip install 'sorl-serve[data]'") from None
    if not path.exists():
        raise DatasetError(f"{path} does not exist")
    try:
        with h5py.File(path, "r") as file:
            warn_of_unused(str(path), file, (*REQUIRED, *OPTIONAL))
            present = [key for key in (*REQUIRED, *OPTIONAL) if key in file]
            for key in present:
                if not isinstance(file[key], h5py.Dataset):
                    raise DatasetError(f"{path}: {key!r} is a group, expected one array")
            return {key: np.asarray(file[key][()]) for key in present}
    except (OSError, KeyError, RuntimeError) as error:
        raise DatasetError(f"{path}: truncated or not an HDF5 file: {error}") from None


def _transitions(where: str, arrays: dict[str, np.ndarray], actions: np.ndarray) -> Columns:
    terminal = check_flags(where, "terminals", arrays["terminals"])
    timeout = check_flags(where, "timeouts", arrays["timeouts"])
    observations = arrays["observations"]
    if "next_observations" in arrays:
        if arrays["next_observations"].shape != observations.shape:
            shape = arrays["next_observations"].shape
            raise DatasetError(f"{where}: 'next_observations' must be {observations.shape}, and its shape is {shape}")
        keep = np.ones_like(terminal)
        next_observations = arrays["next_observations"]
        ends = terminal | timeout | ~_continues(observations, next_observations)
    else:
        if not (terminal.any() or timeout.any()):
            raise DatasetError(f"{where}: neither 'terminals' nor 'timeouts' has a 1: where do episodes end?")
        keep = terminal | ~timeout
        keep[-1] = terminal[-1]
        following = np.arange(len(observations)) + ~terminal  # a terminal's own observation stands in: its mask is 0
        next_observations = observations[following[keep]]
        ends = terminal | ~np.append(keep[1:], False)  # a row that gives no transition ends the episode before it
    if not keep.any():
        raise DatasetError(f"{where}: what followed is unknown in every row: all are timeouts; add 'next_observations'")
    return Columns(
        observations=observations[keep],
        actions=actions[keep],
        rewards=arrays["rewards"][keep],
        masks=1.0 - terminal[keep],
        next_observations=next_observations,
        ends=ends[keep],
    )


def _continues(observations: np.ndarray, next_observations: np.ndarray) -> np.ndarray:
    """Whether what followed each row is the row below, in float32, (rows,); the last row is followed by none."""
    following, below = (array.astype(np.float32) for array in (next_observations[:-1], observations[1:]))
    return np.append((following == below).all(1), False)
