"""Datasets of the `minari` library (Farama Foundation), read from its local store, MINARI_DATASETS_PATH.

An episode of T steps has T + 1 observations. A termination ends the task: no value is bootstrapped. A truncation only
cuts the recording, and the observation after it is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from tqdm import tqdm

from training.data.action_bounds import ActionBounds
from training.data.formats.checks import OTHER_UNITS_HINT, check_arrays, check_flags, unit_actions
from training.data.formats.raw_dataset import DEFAULT_CONTROL_HZ, Columns, DatasetError, RawDataset, StatedUnits
from training.files import sha256_of_folder

PREFIX = "minari:"


def read(name: str, stated: StatedUnits) -> RawDataset:
    """Read and validate the dataset `name`, e.g. "D4RL/door/human-v2".

    Raises:
        DatasetError: minari is not installed, the dataset is missing or damaged, its spaces are not vectors, or its
            arrays cannot be trained on.
    """
    where = f"{PREFIX}{name}"
    try:
        import minari
    except ImportError:
        raise DatasetError(f"{where}: needs minari and h5py: pip install 'sorl-serve[data]'") from None
    try:
        return _read(minari.load_dataset(name), name, stated)
    except DatasetError as error:
        raise DatasetError(f"{where}: {error}") from None
    except FileNotFoundError:
        raise DatasetError(
            f"{where}: not on this machine: `minari download {name}`, or set MINARI_DATASETS_PATH to where it is"
        ) from None
    except (OSError, ValueError, KeyError, ImportError, AssertionError) as error:  # minari checks files with assertions
        raise DatasetError(f"{where}: damaged, or not a Minari dataset: {error}") from None


def _read(dataset: Any, name: str, stated: StatedUnits) -> RawDataset:
    for kind, space in (("observation", dataset.observation_space), ("action", dataset.action_space)):
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise DatasetError(f"its {kind} space is {space}, expected a Box with one axis")
    space = dataset.action_space
    bounds = stated.action_bounds("its action space", space.shape[0], (space.low, space.high))
    episodes = tqdm(dataset.iterate_episodes(), total=len(dataset), unit="episode", desc=f"reading {name}")
    parts = [_transitions(f"episode {episode.id}", episode, bounds) for episode in episodes]
    if not parts:
        raise DatasetError("it has no episodes")
    return RawDataset(
        train=Columns(*(np.concatenate(column) for column in zip(*parts, strict=True))),
        val=None,
        action_bounds=bounds,
        control_hz=DEFAULT_CONTROL_HZ if stated.control_hz is None else stated.control_hz,
        sha256=sha256_of_folder(Path(dataset.spec.data_path)),
    )


def _transitions(where: str, episode: Any, bounds: ActionBounds) -> Columns:
    observations = np.asarray(episode.observations)
    steps = {key: np.asarray(getattr(episode, key)) for key in ("actions", "rewards", "terminations")}
    check_arrays(where, {"observations": observations}, flat=())
    check_arrays(where, steps, flat=("rewards", "terminations"))
    rows = len(steps["actions"])
    if len(observations) != rows + 1:
        raise DatasetError(
            f"{where}: 'observations' has {len(observations)} rows, expected {rows + 1}: one more than 'actions'"
        )
    return Columns(
        observations=observations[:-1],
        actions=unit_actions(where, steps["actions"], bounds, OTHER_UNITS_HINT),
        rewards=steps["rewards"],
        masks=1.0 - check_flags(where, "terminations", steps["terminations"]),
        next_observations=observations[1:],
        ends=np.arange(rows) == rows - 1,
    )
