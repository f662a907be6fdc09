"""What the networks of a policy cost: floating-point operations of their matrix products, by the spec alone."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from policy.spec import PolicySpec


class Flops(NamedTuple):
    """Operations that no algorithm saves, a multiplication and an addition being two.

    Attributes:
        actor_row, critic_row: of one candidate, in one step and under all critics.
        actor_observation, critic_observation: of one observation, whose share of the first layers is the same for all
            its candidates and steps.
    """

    actor_row: int
    critic_row: int
    actor_observation: int
    critic_observation: int


def flops_of(spec: PolicySpec) -> Flops:
    """Of the networks of `spec`."""
    members, conditioned = spec.ensemble_size, int(spec.critic_conditioning == "steps")
    return Flops(
        actor_row=2 * _products(spec.action_dim + 2, spec.actor_hidden, spec.action_dim),
        critic_row=2 * members * _products(spec.action_dim + conditioned, spec.critic_hidden, 1),
        actor_observation=2 * spec.obs_dim * spec.actor_hidden[0],
        critic_observation=2 * members * spec.obs_dim * spec.critic_hidden[0],
    )


def _products(inputs: int, hidden: tuple[int, ...], outputs: int) -> int:
    return sum(a * b for a, b in pairwise((inputs, *hidden, outputs)))
