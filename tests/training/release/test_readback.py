"""A policy that is read back must act like the one that was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy import CheckpointError, Policy, save_policy
from tests.policies import random_policy
from training.release import readback


def test_the_written_policy_is_returned(tmp_path: Path) -> None:
    policy = random_policy(name="ours")
    written = readback.save_and_read_back(policy, tmp_path / "policy.safetensors")
    assert (written.spec, len(written.version)) == (policy.spec, 64)


def test_another_policy_on_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save_another(policy: Policy, path: Path) -> str:
        return save_policy(random_policy(seed=1), path)

    monkeypatch.setattr(readback, "save_policy", save_another)
    with pytest.raises(CheckpointError, match=r"policy\.safetensors: read back, it gives other actions"):
        readback.save_and_read_back(random_policy(), tmp_path / "policy.safetensors")
