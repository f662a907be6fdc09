"""`Learner`: one SORL update at a time. The maths is in `losses`; the order of the steps is here.

An update is: critic step, average of the target critic, actor step with the new critic, average of the target actor.
With a frozen actor the first two are all, with frozen critics the last two. The released code differs in three places,
each a switch of `TrainConfig` (docs/algorithm.md).
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from policy import Policy, PolicySpec, in_prefix
from training import losses
from training.batch import Batch
from training.config import TrainConfig
from training.learner.compute import choose_compute
from training.learner.cuda_graphs import CapturedStep, Step
from training.learner.draws import Draws, RandomStream
from training.losses import Info


class Learner:
    """Online and target networks, optimisers, and `update`.

    Args:
        spec: the policy to learn; its `q_agg` also aggregates TD targets.
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
        if config.shared_optimizer:
            self.actor_optimizer = self.critic_optimizer = _adam(config, self.policy.actor, self.policy.critic)
        else:
            self.actor_optimizer = _adam(config, self.policy.actor)
            self.critic_optimizer = _adam(config, self.policy.critic)
        # The networks that the actor's loss and the averages read: the online ones, or a copy from before the update.
        self.actor_source, self.critic_source = self.policy.actor, self.policy.critic
        if config.lagged_targets:
            self.actor_source = copy.deepcopy(self.policy.actor).requires_grad_(False)
            self.critic_source = copy.deepcopy(self.policy.critic).requires_grad_(False)
        networks = (self.policy.actor, self.policy.critic, self.target_actor, self.target_critic)
        self._parameters: dict[nn.Module, list[nn.Parameter]] = {
            network: list(network.parameters()) for network in (*networks, self.actor_source, self.critic_source)
        }
        self.compute = compute = choose_compute(config.compute, self.device, config.precision, config.threads)
        self._actor, self._critic = compute.actor(self.policy.actor), compute.critic(self.policy.critic)
        self._target_actor, self._target_critic = compute.actor(self.target_actor), compute.critic(self.target_critic)
        shared = self.critic_source is self.policy.critic  # then one packing of its weights serves both losses
        self._critic_of_actor_loss = self._critic if shared else compute.critic(self.critic_source)
        self.levels = losses.consistency_levels(config.batch_size, config.denoise_timesteps, self.device)
        self._train_critic: Step = self._update_critic
        self._train_actor: Step = self._update_actor
        if compute.captures:
            self._train_critic = CapturedStep(self._update_critic, lambda draws: draws.critic_k)
            self._train_actor = CapturedStep(self._update_actor, lambda draws: draws.q_k)

    def draw(self, stream: RandomStream) -> Draws:
        """One update's randomness: k uniform over {1, 2, 4, ..., M_BTT}, times on their grids, standard normals.

        With `backup_steps` the critic's k is that; the stream goes on as without.
        """
        size, dims, candidates = self.config.batch_size, self.policy.spec.chunk_dim, self.config.backup_candidates
        noise = torch.randn((candidates + 3, size, dims), generator=stream.device, device=self.device)
        critic_noise, (flow_noise, consistency_noise, q_noise) = noise[:candidates], noise[candidates:]
        uniform = torch.rand((2, size, 1), generator=stream.device, device=self.device)
        choices = self.config.max_backprop_steps.bit_length()
        k = torch.randint(choices, (2,), generator=stream.host).tolist()
        flow_grid = self.config.denoise_timesteps
        consistency_grid = torch.exp2(self.levels)
        return Draws(
            critic_k=self.config.backup_steps or 1 << k[0],
            critic_noise=critic_noise.flatten(0, 1),
            flow_t=torch.floor(uniform[0] * flow_grid) / flow_grid,
            flow_noise=flow_noise,
            consistency_t=torch.floor(uniform[1] * consistency_grid) / consistency_grid,
            consistency_noise=consistency_noise,
            q_k=1 << k[1],
            q_noise=q_noise,
        )

    def set_learning_rate(self, learning_rate: float) -> None:
        """Adam's step size from the next update on, for actor and critic."""
        for optimizer in (self.actor_optimizer, self.critic_optimizer):
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):  # on the card, where captured updates read it
                    group["lr"].fill_(learning_rate)
                else:
                    group["lr"] = learning_rate

    def update(self, batch: Batch, draws: Draws, next_actions: Tensor | None = None) -> Info:
        """One update of all networks; with `freeze_actor` of the critics alone, with `freeze_critics` of the actor.

        Returns detached scalars for logs; they hold until the next update.

        Args:
            batch: B = `config.batch_size` transitions.
            draws: from `draw`.
            next_actions: (n * B, chunk_dim), B rows of each candidate, from `sample_next_actions`; None: sampled here.
                Only with `freeze_actor`, on a CPU.
        """
        if next_actions is not None:
            return self._update_critic(batch, draws, next_actions)
        info = {} if self.config.freeze_critics else self._train_critic(batch, draws)
        return info if self.config.freeze_actor else info | self._train_actor(batch, draws)

    def sample_next_actions(self, next_observations: Tensor, noise: Tensor, num_steps: int) -> Tensor:
        """The online actor's candidates for TD targets, (n * B, chunk_dim), B rows of each candidate.

        Args:
            next_observations: (B, input_dim), as the networks see them.
            noise: (n * B, chunk_dim).
        """
        candidates = len(noise) // len(next_observations)
        share = self._actor.observation_share(next_observations).repeat(candidates, 1)
        return losses.sample(self._actor, share, noise, num_steps, self.config.denoise_timesteps)

    def _update_critic(self, batch: Batch, draws: Draws, next_actions: Tensor | None = None) -> Info:
        if self.config.lagged_targets:
            self._move_average(self.actor_source, self.policy.actor, 1.0)
            self._move_average(self.critic_source, self.policy.critic, 1.0)
        info = self._critic_step(batch, draws, next_actions)
        self._move_average(self.target_critic, self.critic_source, self.config.tau)
        return info

    def _update_actor(self, batch: Batch, draws: Draws) -> Info:
        info = self._actor_step(batch, draws)
        self._move_average(self.target_actor, self.actor_source, self.config.tau)
        return info

    def _critic_step(self, batch: Batch, draws: Draws, next_actions: Tensor | None = None) -> Info:
        config = self.config
        with self.compute.autocast():
            if next_actions is None:
                with torch.set_grad_enabled(config.leak_td_gradient):
                    next_actions = self.sample_next_actions(batch.next_observations, draws.critic_noise, draws.critic_k)
            loss, info = losses.critic_loss(
                self._critic,
                self._target_critic,
                batch,
                next_actions,
                draws.critic_k,
                (config.discount or 0.0) ** config.action_horizon,
                self.policy.spec.q_agg,
                self.return_bounds,
            )
        torch.autograd.backward(loss)  # a leaked gradient stays in the actor's `grad` until its own optimiser steps
        info["critic_grad_norm"] = self.compute.clip_and_step(self.critic_optimizer, config.max_grad_norm)
        return info

    def _actor_step(self, batch: Batch, draws: Draws) -> Info:
        config, actor = self.config, self._actor
        for parameter in self._parameters[self.critic_source]:
            parameter.requires_grad_(False)  # the Q loss differentiates the action, not the critic
        with self.compute.autocast():
            share = actor.observation_share(batch.observations)
            # A loss without weight changes nothing, and is not computed: the Q loss is the dearest, and
            # self-consistency costs two passes of the target actor and doubles the rows of this one.
            flow, *consistency = losses.velocity_loss(actor, share, *self._velocity_rows(batch, draws))
            loss = config.flow_coef * flow
            info: Info = {"flow_loss": flow.detach()}
            if consistency:
                loss = loss + config.consistency_coef * consistency[0]
                info["consistency_loss"] = consistency[0].detach()
            if config.q_loss_coef:
                q, q_info = self._q_loss(batch, share, draws)
                loss = loss + config.q_loss_coef * q
                info |= q_info
        info["actor_loss"] = loss.detach()
        torch.autograd.backward(loss)
        for parameter in self._parameters[self.policy.critic]:
            parameter.requires_grad_(True)
        info["actor_grad_norm"] = self.compute.clip_and_step(self.actor_optimizer, config.max_grad_norm)
        return info

    def _q_loss(self, batch: Batch, share: Tensor, draws: Draws) -> tuple[Tensor, Info]:
        config = self.config
        fixed = None
        if config.prefix_max > 0:
            fixed = in_prefix(self.policy.spec, batch.observations), batch.actions
        return losses.q_loss(
            self._actor,
            self._critic_of_actor_loss,
            batch.observations,
            share,
            draws.q_noise,
            draws.q_k,
            config.denoise_timesteps,
            config.normalise_q_loss,
            fixed,
        )

    def _velocity_rows(self, batch: Batch, draws: Draws) -> list[losses.FlowRows]:
        """The rows of flow matching, and those of self-consistency where it has a weight."""
        config = self.config
        grid, epsilon = config.denoise_timesteps, config.t_epsilon
        rows = [losses.flow_matching_rows(batch.actions, draws.flow_noise, draws.flow_t, grid, epsilon)]
        if config.consistency_coef:
            rows.append(
                losses.self_consistency_rows(
                    self._target_actor,
                    self._target_actor.observation_share(batch.observations),
                    batch.actions,
                    draws.consistency_noise,
                    draws.consistency_t,
                    self.levels,
                    epsilon,
                )
            )
        return rows

    def _move_average(self, target: nn.Module, online: nn.Module, tau: float) -> None:
        self.compute.move_average(self._parameters[target], self._parameters[online], tau)

    def state_dict(self) -> dict[str, Any]:
        """The state that updates depend on: tensors and plain values only."""
        return {
            "policy": self.policy.state_dict(),
            "target_actor": self.target_actor.state_dict(),
            "target_critic": self.target_critic.state_dict(),
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned. Call it before the first update.

        The state may come from another device. Adam's settings that depend on the device are kept, not loaded.
        """
        for name, part in state.items():
            ours = getattr(self, name)
            kept = [{key: group[key] for key in ("lr", "capturable")} for group in getattr(ours, "param_groups", [])]
            ours.load_state_dict(part)
            for group, settings in zip(getattr(ours, "param_groups", []), kept, strict=True):
                group.update(settings)


def _adam(config: TrainConfig, *modules: nn.Module) -> torch.optim.Adam:
    """Adam over the modules' parameters. On a card, captured updates need its step size and step counts there."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    on_card = parameters[0].is_cuda
    learning_rate = torch.tensor(config.learning_rate, device=parameters[0].device) if on_card else config.learning_rate
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True, capturable=on_card)
