"""SORL's four losses, one function each. Noise and times are arguments.

Notation follows the paper (arXiv 2505.22866, section 4): s observation, x_0 noise, x_1 = a action, t time, e the noise
left at t = 1, d log2 of the number of steps, k steps of the sampled action. All means run over batch and action
dimensions. `share` is `observation_share` of the network it is passed to: the observation's part of the first layer,
(B, hidden), computed once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.reference import aggregate, euler_sample
from policy import Values, Velocity
from training.batch import Batch

Info = dict[str, Tensor]
"""Detached scalars by name, for logs."""


class FlowRows(NamedTuple):
    """Regression rows for the velocity field: at (x_t, t, d) it should return `target`."""

    x_t: Tensor  # (B, chunk_dim)
    t: Tensor  # (B, 1)
    log2_steps: Tensor  # (B, 1)
    target: Tensor  # (B, chunk_dim)


def interpolate(noise: Tensor, action: Tensor, t: Tensor, t_epsilon: float) -> Tensor:
    """x_t = (1 - (1 - e) t) x_0 + t x_1."""
    return (1 - (1 - t_epsilon) * t) * noise + t * action


def flow_matching_rows(action: Tensor, noise: Tensor, t: Tensor, denoise_timesteps: int, t_epsilon: float) -> FlowRows:
    """Loss 1, flow matching: at the finest step size the velocity is x_1 - (1 - e) x_0."""
    finest = torch.full_like(t, denoise_timesteps.bit_length() - 1)
    return FlowRows(interpolate(noise, action, t, t_epsilon), t, finest, action - (1 - t_epsilon) * noise)


@torch.no_grad()
def self_consistency_rows(
    target_actor: Velocity,
    share: Tensor,
    action: Tensor,
    noise: Tensor,
    t: Tensor,
    log2_steps: Tensor,
    t_epsilon: float,
) -> FlowRows:
    """Loss 2, self-consistency: one step of size 2^-d equals two of half that size, taken by the target actor.

    The second half step starts at t + 2^-(d+1). Nothing is clipped.
    """
    x_t = interpolate(noise, action, t, t_epsilon)
    half = torch.exp2(-(log2_steps + 1))
    v1 = target_actor(share, x_t, t, log2_steps + 1)
    v2 = target_actor(share, x_t + half * v1, t + half, log2_steps + 1)
    return FlowRows(x_t, t, log2_steps, (v1 + v2) / 2)


def consistency_levels(batch_size: int, denoise_timesteps: int, device: torch.device) -> Tensor:
    """d of each row, (B, 1): equal shares of log2(M_disc) - 1, ..., 1, 0 in that order; the remainder gets d = 0."""
    levels = range(denoise_timesteps.bit_length() - 2, -1, -1)
    share = batch_size // max(len(levels), 1)
    column = [float(level) for level in levels for _ in range(share)]
    return torch.tensor(column + [0.0] * (batch_size - len(column)), device=device)[:, None]


def velocity_loss(actor: Velocity, share: Tensor, *parts: FlowRows) -> list[Tensor]:
    """Mean squared error of the velocity field on each of `parts`.

    Every part has the same observations. All go through one forward pass: fewer, larger products.
    """
    rows = FlowRows(*(torch.cat(column) for column in zip(*parts, strict=True)))
    velocity = actor(share.repeat(len(parts), 1), rows.x_t, rows.t, rows.log2_steps)
    errors = (velocity.float() - rows.target.float()).square()
    return [error.mean() for error in errors.chunk(len(parts))]


def q_loss(
    actor: Velocity,
    critic: Values,
    observation: Tensor,
    share: Tensor,
    noise: Tensor,
    num_steps: int,
    denoise_timesteps: int,
    normalise: bool = True,
    fixed: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Info]:
    """Loss 3, Q: -mean Q_i(s, a_k, k), differentiated through all k steps of a_k.

    With `normalise`, scaled by 1 / mean |mean_i Q_i|. The critic's parameters receive gradients too, unless the caller
    freezes them.

    Args:
        fixed: which numbers of the chunk are not the policy's to choose, (B, chunk_dim) bool, and a chunk that has
            them: the robot executes these in their place.
    """
    action = sample(actor, share, noise, num_steps, denoise_timesteps)
    if fixed is not None:
        action = torch.where(fixed[0], fixed[1], action)
    q = critic(observation, action, torch.full_like(noise[:, :1], num_steps)).float().mean(0)
    loss = -q.mean()
    if normalise:
        loss = loss / q.detach().abs().mean()
    return loss, {"q_mean": q.detach().mean(), "q_loss": loss.detach()}


def critic_loss(
    critic: Values,
    target_critic: Values,
    batch: Batch,
    next_action: Tensor,
    num_steps: int,
    discount: float,
    q_agg: str,
    return_bounds: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[Tensor, Info]:
    """Loss 4, TD error: y = r + gamma * mask * agg_i Q_target_i(s', a'_k, k), with the same k on both sides.

    Of n candidates a'_k of a transition, the one of highest agg_i Q_target_i counts. y is clipped to `return_bounds`,
    which neither the paper nor the released code does.

    Args:
        next_action: (n * B, chunk_dim), B rows of each candidate.
        discount: gamma; of windows of h actions, gamma^h.
    """
    candidates = len(next_action) // len(batch.rewards)
    k = torch.full_like(batch.actions[:, :1], num_steps)
    next_observation = batch.next_observations.repeat(candidates, 1)
    next_q = aggregate(target_critic(next_observation, next_action, k.repeat(candidates, 1)).float(), q_agg)
    if candidates > 1:
        next_q = next_q.view(candidates, -1).amax(0)
    target = (batch.rewards + discount * batch.masks * next_q).clamp(*return_bounds)
    q = critic(batch.observations, batch.actions, k).float()
    loss = F.mse_loss(q, target.expand_as(q))
    return loss, {"critic_loss": loss.detach(), "td_target_mean": target.detach().mean()}


def sample(actor: Velocity, share: Tensor, noise: Tensor, num_steps: int, denoise_timesteps: int) -> Tensor:
    """The k-step sample of every row, (B, chunk_dim); differentiable, and clipped at the end only."""
    return euler_sample(actor, share, noise, num_steps, denoise_timesteps)
