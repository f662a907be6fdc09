"""`RawDataset`: what every format's `read` returns, transitions in NumPy arrays and their units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from training.data.action_bounds import ActionBounds

DEFAULT_CONTROL_HZ = 20.0


class DatasetError(ValueError):
    """A dataset cannot be trained on; the message names the file, the array and, where one is at fault, the row."""


class Columns(NamedTuple):
    """T transitions, actions in [-1, 1]. A mask is 0 where the task has ended, and no value is bootstrapped there.

    An episode's transitions follow each other in the order of time; `ends` is true at its last one, whether the task
    ended there or only the recording.
    """

    observations: np.ndarray  # (T, obs_dim)
    actions: np.ndarray  # (T, action_dim)
    rewards: np.ndarray  # (T,)
    masks: np.ndarray  # (T,)
    next_observations: np.ndarray  # (T, obs_dim)
    ends: np.ndarray  # (T,), bool


@dataclass(frozen=True)
class RawDataset:
    """A validated dataset as read from disk."""

    train: Columns
    val: Columns | None
    action_bounds: ActionBounds
    control_hz: float
    sha256: str


@dataclass(frozen=True)
class StatedUnits:
    """The data's units as the user states them; they override what a file says."""

    control_hz: float | None = None
    action_low: tuple[float, ...] | None = None
    action_high: tuple[float, ...] | None = None

    def action_bounds(self, where: str, action_dim: int, found: tuple[np.ndarray, np.ndarray] | None) -> ActionBounds:
        """The action bounds: as stated, otherwise as `found` in the data if finite, otherwise [-1, 1].

        Args:
            where: what the bounds belong to; begins an error's message.
            action_dim: number of action dimensions.
            found: lower and upper bounds in the data, each (action_dim,).

        Raises:
            DatasetError: only one bound is stated, a lower one is not below its upper one, or their count is wrong.
        """
        if (self.action_low is None) != (self.action_high is None):
            raise DatasetError(f"{where}: pass both of --action-low and --action-high, or neither")
        try:
            if self.action_low is not None and self.action_high is not None:
                return ActionBounds.of(self.action_low, self.action_high, action_dim)
            if found is not None:
                low, high = (np.asarray(bound, np.float64).ravel() for bound in found)
                if np.isfinite(low).all() and np.isfinite(high).all():
                    return ActionBounds.of(low.tolist(), high.tolist(), action_dim)
        except (TypeError, ValueError) as error:
            raise DatasetError(f"{where}: {error}") from None
        return ActionBounds.unit(action_dim)
