"""`Dataset`: the transitions of one task on a device, and `load_dataset`, which reads them in any format.

The formats and their checks are in `formats/`; docs/data.md describes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from training.batch import Batch
from training.data.action_bounds import ActionBounds
from training.data.formats import hdf5, minari, npz
from training.data.formats.checks import warn_of_ranges
from training.data.formats.raw_dataset import Columns, DatasetError, RawDataset, StatedUnits
from training.data.windows import windows

if TYPE_CHECKING:  # imported where data goes to a device: see the package's docstring
    import torch
    from torch import Tensor

__all__ = ["ACTION_LIMIT", "Dataset", "DatasetError", "StatedUnits", "Transitions", "load_dataset", "require_files"]

ACTION_LIMIT = 1 - 1e-5  # the released learner clips dataset actions to this


@dataclass(frozen=True)
class Transitions:
    """T transitions on one device, or windows of them: see `windows`. Observations are raw."""

    observations: Tensor  # (T, obs_dim)
    actions: Tensor  # (T, chunk_dim), clipped to ACTION_LIMIT
    rewards: Tensor  # (T,)
    masks: Tensor  # (T,), 0 where the task has ended
    next_observations: Tensor  # (T, obs_dim)

    def __len__(self) -> int:
        return len(self.rewards)

    def sample(self, size: int, generator: torch.Generator) -> Batch:
        """A batch of `size` transitions, drawn uniformly with replacement."""
        return self.at(self.draw(size, generator))

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """The numbers of `size` transitions, (size,), drawn uniformly with replacement."""
        import torch

        return torch.randint(len(self), (size,), generator=generator, device=self.rewards.device)

    def at(self, index: Tensor) -> Batch:
        """The transitions of these numbers, (B,)."""
        return Batch(*(column[index] for column in self.columns()))

    def columns(self) -> tuple[Tensor, ...]:
        """All fields, in the order of `Batch`."""
        return (self.observations, self.actions, self.rewards, self.masks, self.next_observations)


@dataclass(frozen=True)
class Dataset:
    """Training and validation transitions of one task, and what a policy file says of them."""

    train: Transitions
    val: Transitions | None
    """None where the format has no validation file."""
    observation_mean: np.ndarray
    """(obs_dim,), over the training transitions, of which the last of an episode may start no window."""
    observation_std: np.ndarray
    """(obs_dim,), at least 1e-6."""
    action_bounds: ActionBounds
    sha256: str
    control_hz: float
    """Actions per second."""

    @property
    def obs_dim(self) -> int:
        return self.train.observations.shape[1]

    @property
    def action_dim(self) -> int:
        return len(self.action_bounds.low)


def dataset_files(path: Path) -> tuple[Path, ...]:
    """The files that make up the dataset at `path`, existing or not. None for Minari data, which its library keeps."""
    if str(path).startswith(minari.PREFIX):
        return ()
    return npz.files(path) if path.suffix == ".npz" else (path,)


def require_files(path: Path) -> None:
    """Raise DatasetError if one of `dataset_files` does not exist."""
    for file in dataset_files(path):
        if not file.is_file():
            raise DatasetError(f"{file} does not exist; make it with `sorl-generate`, or pass --dataset")


def load_dataset(
    task: str,
    path: Path,
    device: str = "cpu",
    stated: StatedUnits | None = None,
    action_horizon: int = 1,
    discount: float = 1.0,
) -> Dataset:
    """Read and validate the dataset at `path`, and put it on `device`.

    Args:
        task: for npz data, the OGBench task whose rewards it gets. For other data, any name.
        path: NAME.npz, NAME.hdf5, NAME.h5 or minari:NAME; the name selects the format.
        device: a torch device.
        stated: units that the user states; they override what the data says.
        action_horizon: h; above 1, the dataset's transitions are windows of h actions.
        discount: gamma, of the rewards inside a window.

    Raises:
        DatasetError: a file is missing or damaged, its arrays cannot be trained on, or the library that reads the
            format is not installed; or no episode has a window.
    """
    raw = _read(task, path, stated or StatedUnits())
    warn_of_ranges(str(path), raw.train, raw.action_bounds)
    observations = raw.train.observations.astype(np.float64)

    def on_device(columns: Columns) -> Transitions:
        if action_horizon > 1:
            columns = windows(str(path), columns, action_horizon, discount)
        return _to_device(columns, device)

    return Dataset(
        train=on_device(raw.train),
        val=None if raw.val is None else on_device(raw.val),
        observation_mean=observations.mean(0),
        observation_std=np.maximum(observations.std(0), 1e-6),
        action_bounds=raw.action_bounds,
        sha256=raw.sha256,
        control_hz=raw.control_hz,
    )


def _read(task: str, path: Path, stated: StatedUnits) -> RawDataset:
    if str(path).startswith(minari.PREFIX):
        return minari.read(str(path).removeprefix(minari.PREFIX), stated)
    if path.suffix in (".hdf5", ".h5"):
        return hdf5.read(path, stated)
    if path.suffix == ".npz":
        return npz.read(task, path, stated)
    raise DatasetError(f"{path}: unknown format; expected .npz, .hdf5, .h5 or minari:NAME")


def _to_device(columns: Columns, device: str) -> Transitions:
    import torch

    transitions = Transitions(
        *(
            torch.from_numpy(np.ascontiguousarray(getattr(columns, name), np.float32)).to(device)
            for name in Batch._fields
        )
    )
    transitions.actions.clamp_(-ACTION_LIMIT, ACTION_LIMIT)
    return transitions
