"""Offline data on the device: read in whichever format it has, then batches of transitions.

The formats and their checks are in `training/formats`; docs/data.md describes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.data.action_bounds import ActionBounds
from training.data.formats import hdf5, minari, npz
from training.data.formats.source import Columns, DatasetError, Source, StatedUnits
from training.losses import Batch

__all__ = ["ACTION_LIMIT", "Dataset", "DatasetError", "StatedUnits", "Transitions", "load_dataset", "require_files"]

ACTION_LIMIT = 1 - 1e-5  # the released learner clips dataset actions to this


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
    val: Transitions | None  # None where the format has no validation file
    observation_mean: np.ndarray  # (obs_dim,)
    observation_std: np.ndarray  # (obs_dim,)
    action_bounds: ActionBounds
    sha256: str
    control_hz: float

    @property
    def obs_dim(self) -> int:
        return self.train.observations.shape[1]

    @property
    def action_dim(self) -> int:
        return self.train.actions.shape[1]


def dataset_files(path: Path) -> tuple[Path, ...]:
    """The files that `path` stands for, which may or may not exist; none for a dataset that a library keeps."""
    if str(path).startswith(minari.PREFIX):
        return ()
    return npz.files(path) if path.suffix == ".npz" else (path,)


def require_files(path: Path) -> None:
    """Raises DatasetError if one of `dataset_files` is not there."""
    for file in dataset_files(path):
        if not file.is_file():
            raise DatasetError(f"{file} does not exist; make it with `sorl-generate`, or say --dataset")


def load_dataset(task: str, path: Path, device: str = "cpu", stated: StatedUnits | None = None) -> Dataset:
    """Read and validate `path`, in the format that its name says, onto `device`.

    Args:
        task: for npz data the OGBench task whose rewards it gets; otherwise any name.
        path: NAME.npz, NAME.hdf5 or NAME.h5, or minari:NAME.
        stated: units that the user states; they go before what the data says.

    Raises:
        DatasetError: a file is missing or damaged, its arrays are not what training can use, or a library that reads
            it is not installed.
    """
    source = _read(task, path, stated or StatedUnits())
    observations = source.train.observations.astype(np.float64)
    return Dataset(
        train=_to_device(source.train, device),
        val=None if source.val is None else _to_device(source.val, device),
        observation_mean=observations.mean(0),
        observation_std=np.maximum(observations.std(0), 1e-6),
        action_bounds=source.action_bounds,
        sha256=source.sha256,
        control_hz=source.control_hz,
    )


def _read(task: str, path: Path, stated: StatedUnits) -> Source:
    if str(path).startswith(minari.PREFIX):
        return minari.read(str(path).removeprefix(minari.PREFIX), stated)
    if path.suffix in (".hdf5", ".h5"):
        return hdf5.read(path, stated)
    if path.suffix == ".npz":
        return npz.read(task, path, stated)
    raise DatasetError(f"{path}: not a format that can be read; expected .npz, .hdf5, .h5 or minari:NAME")


def _to_device(columns: Columns, device: str) -> Transitions:
    transitions = Transitions(
        *(torch.from_numpy(np.ascontiguousarray(column, np.float32)).to(device) for column in columns)
    )
    transitions.actions.clamp_(-ACTION_LIMIT, ACTION_LIMIT)
    return transitions
