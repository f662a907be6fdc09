"""Small random policies for tests."""

from __future__ import annotations

from typing import Any

import torch

from policy import Policy, PolicySpec


def random_policy(seed: int = 0, **changes: Any) -> Policy:
    """A policy of 11 observations and 3 actions with random weights; `changes` are fields of its spec."""
    action_dim = changes.get("action_dim", 3)
    fields: dict[str, Any] = {
        "name": "random",
        "obs_dim": 11,
        "action_dim": action_dim,
        "action_low": (-1.0,) * action_dim,
        "action_high": (1.0,) * action_dim,
        "actor_hidden": (32, 32),
        "critic_hidden": (32, 32),
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy = Policy(PolicySpec(**(fields | changes)))
        policy.observation_mean.normal_()
        policy.observation_std.uniform_(0.5, 2.0)
        for parameter in policy.parameters():
            if parameter.ndim < 3:
                parameter.data += 0.1 * torch.randn_like(parameter)  # biases and LayerNorms that matter
    return policy.eval().requires_grad_(False)
