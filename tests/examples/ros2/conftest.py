"""A policy of an arm that names the parts of its observation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from policy import ObservationKey, save_policy
from tests.policies import random_policy

PARTS = {"joint_pos": 3, "joint_vel": 3, "gripper": 1}


@pytest.fixture
def arm(tmp_path: Path) -> Callable[[float], Path]:
    """`arm(control_hz)`: a file of the policy "arm", which turns 7 numbers, in three parts, into 4."""

    def write(control_hz: float) -> Path:
        policy = random_policy(
            name="arm",
            obs_dim=7,
            observation_keys=tuple(ObservationKey(name, size) for name, size in PARTS.items()),
            action_dim=4,
            action_low=(-1.0, -2.0, -3.0, 0.0),
            action_high=(1.0, 2.0, 3.0, 4.0),
            control_hz=control_hz,
        )
        path = tmp_path / "arm.safetensors"
        save_policy(policy, path)
        return path

    return write
