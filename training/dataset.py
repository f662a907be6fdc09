"""Offline data: validate the file, let `ogbench` relabel it, keep it on the device, draw batches.

File layout (the official one): NAME.npz and NAME-val.npz with `observations` (rows, obs_dim), `actions`
(rows, action_dim), `terminals` (rows,) true at each episode's last row, `qpos`, `qvel` and, for scenes with buttons,
`button_states`. An episode of n rows gives n - 1 transitions.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.files import sha256_of
from training.losses import Batch

ACTION_LIMIT = 1 - 1e-5  # the released learner clips dataset actions to this
REQUIRED = ("observations", "actions", "terminals", "qpos", "qvel")


class DatasetError(ValueError):
    """A dataset can't be trained on; the message names the file, the array and, where there is one, the row."""


@dataclass(frozen=True)
class Transitions:
    """T transitions on one device; observations raw."""

    observations: Tensor  # (T, obs_dim)
    actions: Tensor  # (T, action_dim), clipped
    rewards: Tensor  # (T,)
    masks: Tensor  # (T,)
    next_observations: Tensor  # (T, obs_dim)

    def __len__(self) -> int:
        return len(self.rewards)

    def sample(self, size: int, generator: torch.Generator) -> Batch:
        """`size` transitions, uniform with replacement."""
        index = torch.randint(len(self), (size,), generator=generator, device=self.rewards.device)
        return Batch(*(column[index] for column in self.columns()))

    def columns(self) -> tuple[Tensor, ...]:
        return (self.observations, self.actions, self.rewards, self.masks, self.next_observations)


@dataclass(frozen=True)
class Dataset:
    """Training and validation transitions of one task, with what a checkpoint must know of them."""

    train: Transitions
    val: Transitions
    observation_mean: np.ndarray  # (obs_dim,)
    observation_std: np.ndarray  # (obs_dim,)
    sha256: str
    control_hz: float

    @property
    def obs_dim(self) -> int:
        return self.train.observations.shape[1]

    @property
    def action_dim(self) -> int:
        return self.train.actions.shape[1]


def dataset_files(path: Path) -> tuple[Path, Path]:
    """`path` and its validation file, which may or may not exist."""
    return path, path.with_name(f"{path.stem}-val.npz")


def require_file(path: Path) -> None:
    """Raises DatasetError if there is no file at `path`."""
    if not path.is_file():
        raise DatasetError(f"{path} does not exist; make it with `sorl-generate`, or say --dataset")


def load_dataset(task: str, path: Path, device: str = "cpu") -> Dataset:
    """Validate `path` and its validation file, and relabel them for `task`.

    Raises:
        DatasetError: a file is missing or damaged, or its arrays are not what training can use.
    """
    import ogbench
    from sorl_client.episodes import control_hz

    for file in dataset_files(path):
        validate(file)
    env, train, val = ogbench.make_env_and_datasets(task, dataset_path=str(path))
    for split in (train, val):
        if split["observations"].shape[1:] != env.observation_space.shape:
            raise DatasetError(
                f"{path}: 'observations' have {split['observations'].shape[1]} dimensions, "
                f"and {task} has {env.observation_space.shape[0]}"
            )
    observations = train["observations"].astype(np.float64)
    return Dataset(
        train=_to_device(train, device),
        val=_to_device(val, device),
        observation_mean=observations.mean(0),
        observation_std=np.maximum(observations.std(0), 1e-6),
        sha256=sha256_of(path),
        control_hz=control_hz(env),
    )


def _to_device(split: dict[str, np.ndarray], device: str) -> Transitions:
    def tensor(key: str) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(split[key], dtype=np.float32)).to(device)

    actions = tensor("actions").clamp_(-ACTION_LIMIT, ACTION_LIMIT)
    return Transitions(tensor("observations"), actions, tensor("rewards"), tensor("masks"), tensor("next_observations"))


def validate(path: Path) -> None:
    """Check one npz file.

    Raises:
        DatasetError: naming the array and the first faulty row.
    """
    require_file(path)
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            arrays: dict[str, Any] = {key: file[key] for key in file.files}
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, KeyError) as error:
        raise DatasetError(f"{path}: truncated or not an npz file: {error}") from None
    missing = [key for key in REQUIRED if key not in arrays]
    if missing:
        raise DatasetError(f"{path}: array {missing[0]!r} is missing")
    rows = len(arrays["observations"])
    for key, array in arrays.items():
        dimensions = 1 if key == "terminals" else 2
        if array.ndim != dimensions:
            raise DatasetError(f"{path}: {key!r} must have {dimensions} axes, and its shape is {array.shape}")
        if len(array) != rows:
            raise DatasetError(f"{path}: {key!r} has {len(array)} rows, and 'observations' has {rows}")
        finite = np.isfinite(array).reshape(rows, -1).all(1)
        if not finite.all():
            raise DatasetError(f"{path}: {key!r} row {int(np.argmin(finite))} is NaN or infinite")
    inside = (np.abs(arrays["actions"]) <= 1).all(1)
    if not inside.all():
        row = int(np.argmin(inside))
        raise DatasetError(f"{path}: 'actions' row {row} leaves [-1, 1]: {arrays['actions'][row]}")
    _validate_terminals(path, arrays["terminals"])


def _validate_terminals(path: Path, terminals: np.ndarray) -> None:
    values = terminals.astype(np.float64)
    binary = (values == 0) | (values == 1)
    if not binary.all():
        row = int(np.argmin(binary))
        raise DatasetError(f"{path}: 'terminals' row {row} must be 0 or 1, and is {terminals[row]}")
    if not len(values) or values[-1] != 1:
        raise DatasetError(f"{path}: 'terminals' row {len(values) - 1}, the last, must be 1: the file ends mid-episode")
    ends = np.flatnonzero(values)
    lengths = np.diff(ends, prepend=-1)
    if lengths.min() < 2:
        row = int(ends[np.argmin(lengths)])
        raise DatasetError(f"{path}: 'terminals' row {row} ends an episode of one row, which has no transition")
