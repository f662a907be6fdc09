"""`Batch`: the transitions of one update, or windows of them, as the dataset hands them to the learner."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # `training.data` imports this module, and `sorl-generate` runs without torch
    from torch import Tensor


class Batch(NamedTuple):
    """B transitions; observations as the networks see them, actions in [-1, 1].

    Of windows of h > 1 actions, rewards are discounted sums over the window and next observations those after it.
    """

    observations: Tensor  # (B, obs_dim)
    actions: Tensor  # (B, chunk_dim)
    rewards: Tensor  # (B,)
    masks: Tensor  # (B,), 0 where the task is achieved: no bootstrapping
    next_observations: Tensor  # (B, obs_dim)
