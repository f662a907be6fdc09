"""Floating-point operations of a policy's matrix products, computed from its spec."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from policy.spec import PolicySpec


class Flops(NamedTuple):
    """The fewest floating-point operations that any implementation needs; a multiply-add counts as two.

    Attributes:
        actor_row: one candidate, one step.
        critic_row: one candidate, all critics.
        actor_observation, critic_observation: one observation's share of the first layers. All candidates and steps
            of a request use the same share, so it counts once.
    """

    actor_row: int
    critic_row: int
    actor_observation: int
    critic_observation: int


def flops_of(spec: PolicySpec) -> Flops:
    """The operations of the networks that `spec` describes."""
    members, conditioned = spec.ensemble_size, int(spec.critic_conditioning == "steps")
    return Flops(
        actor_row=2 * _products(spec.chunk_dim + 2, spec.actor_hidden, spec.chunk_dim),
        critic_row=2 * members * _products(spec.chunk_dim + conditioned, spec.critic_hidden, 1),
        actor_observation=2 * spec.input_dim * spec.actor_hidden[0],
        critic_observation=2 * members * spec.input_dim * spec.critic_hidden[0],
    )


def _products(inputs: int, hidden: tuple[int, ...], outputs: int) -> int:
    return sum(a * b for a, b in pairwise((inputs, *hidden, outputs)))
