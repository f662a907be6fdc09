"""What a policy is: its specification, its networks, its file."""

from policy.checkpoint import load_policy, save_policy
from policy.errors import CheckpointError
from policy.networks import CriticEnsemble, Policy, Values, Velocity, VelocityField
from policy.spec import Budget, Measurement, PolicySpec, Provenance

__all__ = [
    "Budget",
    "CheckpointError",
    "CriticEnsemble",
    "Measurement",
    "Policy",
    "PolicySpec",
    "Provenance",
    "Values",
    "Velocity",
    "VelocityField",
    "load_policy",
    "save_policy",
]
