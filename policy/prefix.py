"""Prefixes: the first actions of a chunk as an input of the networks, for policies with a `prefix_max`.

A robot executes the rest of one chunk while the next is computed. A policy that knows these actions can continue them.
Training-time real-time chunking (arXiv 2512.05964) gives them to a transformer as tokens without noise. The networks
here are MLPs, and take them behind the observation:

    observation (obs_dim), then prefix_max actions in [-1, 1], zeros where there is none, then for each of these 1 if
    it is there and 0 if not
"""

from __future__ import annotations

import torch
from torch import Tensor

from policy.spec import PolicySpec


def with_prefix(spec: PolicySpec, observation: Tensor, actions: Tensor, length: Tensor) -> Tensor:
    """What the networks take of an observation and the chunk's first actions, (B, input_dim).

    Args:
        observation: (B, obs_dim).
        actions: (B, d, action_dim) in [-1, 1], d at least `prefix_max`.
        length: (B,), how many of the first actions count, 0 to `prefix_max`.
    """
    there = torch.arange(spec.prefix_max, device=length.device) < length[:, None]
    prefix = torch.where(there[..., None], actions[:, : spec.prefix_max], 0.0)
    return torch.cat([observation, prefix.flatten(1), there.to(observation.dtype)], dim=1)


def in_prefix(spec: PolicySpec, inputs: Tensor) -> Tensor:
    """Which numbers of a chunk belong to the prefix in `inputs`, (B, input_dim) -> (B, chunk_dim) bool."""
    there = torch.zeros(len(inputs), spec.action_horizon, dtype=torch.bool, device=inputs.device)
    there[:, : spec.prefix_max] = inputs[:, spec.input_dim - spec.prefix_max :] > 0.5
    return there.repeat_interleave(spec.action_dim, dim=1)
