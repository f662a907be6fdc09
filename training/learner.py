"""`Learner`: one SORL update at a time. The maths is in `losses`; the order of things is here.

An update: critic step, critic average, actor step with the new critic, actor average.
"""

from __future__ import annotations

import copy
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from policy import Policy, PolicySpec
from training import losses
from training.config import TrainConfig
from training.losses import Batch, Info


class Draws(NamedTuple):
    """All randomness of one update."""

    critic_k: int
    critic_noise: Tensor  # (B, action_dim)
    flow_t: Tensor  # (B, 1)
    flow_noise: Tensor  # (B, action_dim)
    consistency_t: Tensor  # (B, 1)
    consistency_noise: Tensor  # (B, action_dim)
    q_k: int
    q_noise: Tensor  # (B, action_dim)


class Learner:
    """Online and target networks, optimisers, and `update`.

    Args:
        spec: what is to be learned; `spec.q_agg` also aggregates TD targets.
        config: a resolved `TrainConfig`.
        return_bounds: TD targets are clipped to this range.
    """

    def __init__(
        self, spec: PolicySpec, config: TrainConfig, return_bounds: tuple[float, float] = (-math.inf, math.inf)
    ) -> None:
        self.config = config
        self.return_bounds = return_bounds
        self.device = torch.device(config.device)
        self.policy = Policy(spec).to(self.device)
        self.target_actor = copy.deepcopy(self.policy.actor).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.policy.critic).requires_grad_(False)
        self.actor_optimizer = _adam(self.policy.actor, config.learning_rate)
        self.critic_optimizer = _adam(self.policy.critic, config.learning_rate)
        self.levels = losses.consistency_levels(config.batch_size, config.denoise_timesteps, self.device)

    def draw(self, generator: torch.Generator) -> Draws:
        """The randomness of one update: k uniform over {1, 2, ..., M_BTT}, times on their grids, standard normals."""
        size, dims = self.config.batch_size, self.policy.spec.action_dim
        noise = torch.randn((4, size, dims), generator=generator, device=self.device)
        uniform = torch.rand((2, size, 1), generator=generator, device=self.device)
        choices = self.config.max_backprop_steps.bit_length()
        k = torch.randint(choices, (2,), generator=generator, device=self.device).tolist()
        flow_grid = self.config.denoise_timesteps
        consistency_grid = torch.exp2(self.levels)
        return Draws(
            critic_k=1 << k[0],
            critic_noise=noise[0],
            flow_t=torch.floor(uniform[0] * flow_grid) / flow_grid,
            flow_noise=noise[1],
            consistency_t=torch.floor(uniform[1] * consistency_grid) / consistency_grid,
            consistency_noise=noise[2],
            q_k=1 << k[1],
            q_noise=noise[3],
        )

    def set_learning_rate(self, learning_rate: float) -> None:
        """Adam's step size from the next update on, for actor and critic."""
        for optimizer in (self.actor_optimizer, self.critic_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate

    def update(self, batch: Batch, draws: Draws) -> Info:
        """One update of everything. Returns detached scalars."""
        info = self._critic_step(batch, draws)
        _move_average(self.target_critic, self.policy.critic, self.config.tau)
        info |= self._actor_step(batch, draws)
        _move_average(self.target_actor, self.policy.actor, self.config.tau)
        return info

    def _critic_step(self, batch: Batch, draws: Draws) -> Info:
        config, actor = self.config, self.policy.actor
        with self._precision():
            with torch.no_grad():
                share = actor.observation_share(batch.next_observations)
                next_action = losses.sample(actor, share, draws.critic_noise, draws.critic_k, config.denoise_timesteps)
            loss, info = losses.critic_loss(
                self.policy.critic,
                self.target_critic,
                batch,
                next_action,
                draws.critic_k,
                config.discount or 0.0,
                self.policy.spec.q_agg,
                self.return_bounds,
            )
        info["critic_grad_norm"] = self._step(self.critic_optimizer, self.policy.critic, loss)
        return info

    def _actor_step(self, batch: Batch, draws: Draws) -> Info:
        config, actor = self.config, self.policy.actor
        self.policy.critic.requires_grad_(False)  # the Q loss differentiates the action, not the critic
        with self._precision():
            share = actor.observation_share(batch.observations)
            flow, consistency = losses.velocity_loss(actor, share, *self._flow_rows(batch, draws))
            q, info = losses.q_loss(
                actor,
                self.policy.critic,
                batch.observations,
                share,
                draws.q_noise,
                draws.q_k,
                config.denoise_timesteps,
            )
            loss = config.flow_coef * flow + config.consistency_coef * consistency + (config.q_loss_coef or 0.0) * q
        info |= {"flow_loss": flow.detach(), "consistency_loss": consistency.detach(), "actor_loss": loss.detach()}
        info["actor_grad_norm"] = self._step(self.actor_optimizer, actor, loss)
        self.policy.critic.requires_grad_(True)
        return info

    def _flow_rows(self, batch: Batch, draws: Draws) -> tuple[losses.FlowRows, losses.FlowRows]:
        target_share = self.target_actor.observation_share(batch.observations)
        return (
            losses.flow_matching_rows(batch.actions, draws.flow_noise, draws.flow_t, self.config.denoise_timesteps),
            losses.self_consistency_rows(
                self.target_actor,
                target_share,
                batch.actions,
                draws.consistency_noise,
                draws.consistency_t,
                self.levels,
            ),
        )

    def _step(self, optimizer: torch.optim.Optimizer, module: nn.Module, loss: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(module.parameters(), self.config.max_grad_norm)
        optimizer.step()
        return norm

    def _precision(self) -> AbstractContextManager[Any]:
        if self.config.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """Everything an update depends on, tensors and plain values only."""
        return {
            "policy": self.policy.state_dict(),
            "target_actor": self.target_actor.state_dict(),
            "target_critic": self.target_critic.state_dict(),
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in state.items():
            getattr(self, name).load_state_dict(part)


def _adam(module: nn.Module, learning_rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), lr=learning_rate, fused=True)


@torch.no_grad()
def _move_average(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau online, all tensors in one call."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)
