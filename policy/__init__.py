"""What a policy is: its specification, its networks, its file."""

from policy.checkpoint import PolicyFile, load_policy, policy_files, save_policy
from policy.errors import CheckpointError
from policy.networks import CriticEnsemble, Policy, VelocityField
from policy.spec import Budget, Measurement, PolicySpec, Provenance

__all__ = [
    "Budget",
    "CheckpointError",
    "CriticEnsemble",
    "Measurement",
    "Policy",
    "PolicyFile",
    "PolicySpec",
    "Provenance",
    "VelocityField",
    "load_policy",
    "policy_files",
    "save_policy",
]
