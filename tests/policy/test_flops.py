"""`flops_of` against torch's FLOP counter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from policy.flops import flops_of
from tests.policies import random_policy


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"obs_dim": 1, "action_dim": 1, "actor_hidden": (8,), "critic_hidden": (16,)},
        {"obs_dim": 7, "action_dim": 2, "actor_hidden": (16, 24, 8), "critic_hidden": (8, 40), "ensemble_size": 5},
        {"critic_conditioning": "none"},
    ],
)
def test_as_torch_counts(changes: dict[str, Any]) -> None:
    policy = random_policy(**changes)
    spec, rows = policy.spec, 3
    cost = flops_of(spec)
    observation, action, column = (
        torch.zeros(rows, spec.obs_dim),
        torch.zeros(rows, spec.action_dim),
        torch.ones(rows, 1),
    )
    with FlopCounterMode(display=False) as counter:
        share = policy.actor.observation_share(observation)
    assert counter.get_total_flops() == rows * cost.actor_observation
    with FlopCounterMode(display=False) as counter:
        policy.actor(share, action, column, column)
    assert counter.get_total_flops() == rows * cost.actor_row
    with FlopCounterMode(display=False) as counter:
        policy.critic(observation, action, column)
    assert counter.get_total_flops() == rows * (cost.critic_row + cost.critic_observation)
