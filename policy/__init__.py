"""What a policy is: its specification (`spec`), its networks (`networks`) and its file (`checkpoint`).

`dominance` compares the cells that were measured of it. `prefix` puts a chunk's first actions into
the networks' input.
"""

from policy.checkpoint import PolicyFile, load_policy, policy_files, save_policy
from policy.dominance import best_measured, dominating
from policy.errors import CheckpointError
from policy.networks import CriticEnsemble, Policy, Values, Velocity, VelocityField
from policy.prefix import in_prefix, with_prefix
from policy.spec import Budget, Measurement, ObservationKey, PolicySpec, Provenance

__all__ = [
    "Budget",
    "CheckpointError",
    "CriticEnsemble",
    "Measurement",
    "ObservationKey",
    "Policy",
    "PolicyFile",
    "PolicySpec",
    "Provenance",
    "Values",
    "Velocity",
    "VelocityField",
    "best_measured",
    "dominating",
    "in_prefix",
    "load_policy",
    "policy_files",
    "save_policy",
    "with_prefix",
]
