"""Facts of a policy that every figure of it must state: sizes, precision, updates, seed and discount."""

from __future__ import annotations

from typing import Any

from policy import Policy, PolicySpec
from training.config import TrainConfig


def policy_facts(policy: Policy) -> dict[str, Any]:
    """Facts as plain values, for reports. What the policy file does not say of its training is None."""
    spec, origin = policy.spec, policy.spec.provenance
    return {
        "policy_sha256": policy.version,
        "actor_hidden": list(spec.actor_hidden),
        "critic_hidden": list(spec.critic_hidden),
        "ensemble_size": spec.ensemble_size,
        "q_agg": spec.q_agg,
        "action_horizon": spec.action_horizon,
        "temperature": spec.temperature,
        "denoise_timesteps": spec.denoise_timesteps,
        "max_backprop_steps": spec.max_backprop_steps,
        "updates": origin.updates,
        "training_seed": origin.seed,
        "training_precision": origin.config.get("precision"),
        "dataset_sha256": origin.dataset_sha256,
        "code_revision": origin.code_revision,
    }


def discount_of(spec: PolicySpec, task: str) -> float:
    """The discount gamma of the critic's values: the policy's, or where it has none the paper's for the task."""
    discount = spec.provenance.config.get("discount")
    if discount is None:
        discount = TrainConfig(task=task).resolved().discount
    assert discount is not None
    return float(discount)
