"""`save_and_read_back`: writes a policy, reads it back as the service does, and compares the actions of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kernels.backend import SampleBatch
from kernels.reference import ReferenceBackend
from policy import CheckpointError, Policy, load_policy, save_policy


def save_and_read_back(policy: Policy, path: Path) -> Policy:
    """Write `policy` to `path`. Returns the policy as read back from there.

    Raises:
        CheckpointError: the file cannot be read back, or gives other actions or values.
    """
    save_policy(policy, path)
    written = load_policy(path)
    rng = np.random.default_rng(0)
    observation = rng.standard_normal((64, policy.spec.input_dim)).astype(np.float32)
    batch = SampleBatch.of(observation, num_candidates=4, num_steps=2, seed=range(64))
    before, after = (ReferenceBackend(version).sample_and_score(batch) for version in (policy, written))
    if not (np.array_equal(before.action, after.action) and np.array_equal(before.q, after.q)):
        raise CheckpointError(f"{path}: read back, it gives other actions than what was written")
    return written
