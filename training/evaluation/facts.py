"""What a figure must say of the policy that it measures: size, precision, updates, seed, and the return it was told."""

from __future__ import annotations

from typing import Any

from policy import Policy, PolicySpec
from training.config import TrainConfig


def policy_facts(policy: Policy) -> dict[str, Any]:
    """Plain values for reports; what a policy does not say of its training is None."""
    spec, origin = policy.spec, policy.spec.provenance
    return {
        "policy_sha256": policy.version,
        "actor_hidden": list(spec.actor_hidden),
        "critic_hidden": list(spec.critic_hidden),
        "ensemble_size": spec.ensemble_size,
        "q_agg": spec.q_agg,
        "denoise_timesteps": spec.denoise_timesteps,
        "max_backprop_steps": spec.max_backprop_steps,
        "updates": origin.updates,
        "training_seed": origin.seed,
        "training_precision": origin.config.get("precision"),
        "dataset_sha256": origin.dataset_sha256,
        "code_revision": origin.code_revision,
    }


def discount_of(spec: PolicySpec, task: str) -> float:
    """Gamma of the values that the critic learned; the environment's published one where the policy has none."""
    discount = spec.provenance.config.get("discount")
    if discount is None:
        discount = TrainConfig(task=task).resolved().discount
    assert discount is not None
    return float(discount)
