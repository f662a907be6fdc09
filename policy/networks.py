"""The networks: shortcut velocity field and Q ensemble (paper section 4; shapes and initialisation as released)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from policy.spec import PolicySpec

LAYER_NORM_EPS = 1e-6


class Velocity(Protocol):
    """Any implementation of v(s, x, t, d); `VelocityField` is the definition."""

    def observation_share(self, observation: Tensor) -> Tensor: ...

    def __call__(self, share: Tensor, x: Tensor, t: Tensor, log2_steps: Tensor) -> Tensor: ...


class Values(Protocol):
    """Any implementation of Q_i(s, a, k); `CriticEnsemble` is the definition."""

    def __call__(self, observation: Tensor, action: Tensor, num_steps: Tensor) -> Tensor: ...


class VelocityField(nn.Module):
    """v(s, x, t, d): the shortcut actor, an MLP over concat(s, x, t, d) with GELU (tanh form) and linear output.

    t in [0, 1] is the flow's time, and d = log2(number of steps) gives the step length 2^-d; each is one raw column.
    The observation's share of the first layer is the same for all candidates and steps of a request. So it is computed
    once, by `observation_share`, and passed to `forward`.
    """

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.obs_dim = obs_dim
        widths = [obs_dim + action_dim + 2, *hidden, action_dim]
        layers = [nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths)]
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)

    def observation_share(self, observation: Tensor) -> Tensor:
        """W_s s + b: (B, obs_dim) -> (B, hidden)."""
        first = cast(nn.Linear, self.layers[0])
        return F.linear(observation, first.weight[:, : self.obs_dim], first.bias)

    def forward(self, share: Tensor, x: Tensor, t: Tensor, log2_steps: Tensor) -> Tensor:
        """Velocity at x.

        Args:
            share: (B, hidden) from `observation_share`.
            x: (B, action_dim), the point on the flow.
            t: (B, 1), time in [0, 1].
            log2_steps: (B, 1), d.

        Returns:
            (B, action_dim).
        """
        weight = cast(nn.Linear, self.layers[0]).weight[:, self.obs_dim :]
        h = torch.addmm(share, torch.cat([x, t, log2_steps], dim=1), weight.t())
        for layer in self.layers[1:-1]:
            h = layer(F.gelu(h, approximate="tanh"))
        last = cast(nn.Linear, self.layers[-1])
        return _linear_in_float32(F.gelu(h, approximate="tanh"), last.weight, last.bias)


class CriticEnsemble(nn.Module):
    """Q_i(s, a, k), i = 1..E: an MLP over concat(s, a, k), each hidden layer linear -> GELU (tanh form) -> LayerNorm.

    k is the number of steps that made the action, one raw column; there is none when `conditioned` is False. The
    parameters of all members are stacked along a leading axis.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        ensemble_size: int,
        conditioned: bool = True,
        layer_norm: bool = True,
    ) -> None:
        super().__init__()
        self.ensemble_size = ensemble_size
        self.conditioned = conditioned
        widths = [obs_dim + action_dim + int(conditioned), *hidden, 1]
        self.layers = nn.ModuleList(_StackedLinear(ensemble_size, a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(_StackedLayerNorm(ensemble_size, width) for width in hidden if layer_norm)

    def forward(self, observation: Tensor, action: Tensor, num_steps: Tensor) -> Tensor:
        """Values of all members.

        Args:
            observation: (B, obs_dim).
            action: (B, action_dim) in [-1, 1].
            num_steps: (B, 1), k.

        Returns:
            (E, B).
        """
        columns = [observation, action, num_steps] if self.conditioned else [observation, action]
        inputs = torch.cat(columns, dim=1)
        layers = [layer.members() for layer in self._stacks(self.layers)]
        norms = [norm.members() for norm in self._stacks(self.norms)]
        return torch.stack([self._member(index, inputs, layers, norms) for index in range(self.ensemble_size)])

    def _member(self, index: int, h: Tensor, layers: list[_Members], norms: list[_Members]) -> Tensor:
        """Q_index of every row, (B,).

        Members are computed one by one with 2-D operators. With batched products and a separate LayerNorm scale, a
        training update took 1.3 times as long (81 against 62 ms at 3 x 256, bf16; one run of 60 updates each on a
        busy machine).
        """
        for depth, members in enumerate(layers[:-1]):
            h = F.gelu(F.linear(h, *members[index]), approximate="tanh")
            if norms:
                weight, bias = norms[depth][index]
                h = F.layer_norm(h, weight.shape, weight, bias, LAYER_NORM_EPS)
        return _linear_in_float32(h, *layers[-1][index]).squeeze(-1)

    @staticmethod
    def _stacks(modules: nn.ModuleList) -> list[_Stack]:
        return [cast(_Stack, module) for module in modules]


def _linear_in_float32(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """An output layer in float32, also under autocast: bfloat16 would round values of magnitude 50 to 0.25."""
    if not torch.is_autocast_enabled(h.device.type):
        return F.linear(h, weight, bias)
    with torch.autocast(h.device.type, enabled=False):
        return F.linear(h.float(), weight, bias)


_Members = list[tuple[Tensor, Tensor]]


class _Stack(nn.Module):
    """A weight and a bias for each of E ensemble members, stacked along the leading axis."""

    weight: nn.Parameter
    bias: nn.Parameter

    def members(self) -> _Members:
        """(weight, bias) of each member. The gradient of `unbind` is one stack; that of E indexings is E additions."""
        return list(zip(self.weight.unbind(0), self.bias.unbind(0), strict=True))


class _StackedLinear(_Stack):
    """E linear layers: weight (E, out, in), bias (E, out)."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = math.sqrt(6 / (inputs + outputs))  # Glorot uniform, fans per member
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(members, outputs))


class _StackedLayerNorm(_Stack):
    """E LayerNorms: weight and bias (E, width)."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, width))
        self.bias = nn.Parameter(torch.zeros(members, width))


class Policy(nn.Module):
    """A policy in memory: spec, networks and observation statistics. A policy file stores it, a backend runs it.

    `version` is the sha256 of the file it was loaded from, or "" if it was never saved.
    """

    observation_mean: Tensor
    observation_std: Tensor

    def __init__(self, spec: PolicySpec, version: str = "") -> None:
        super().__init__()
        self.spec = spec
        self.version = version
        self.actor = VelocityField(spec.input_dim, spec.chunk_dim, spec.actor_hidden)
        self.critic = CriticEnsemble(
            spec.input_dim,
            spec.chunk_dim,
            spec.critic_hidden,
            spec.ensemble_size,
            conditioned=spec.critic_conditioning == "steps",
            layer_norm=spec.critic_layer_norm,
        )
        self.register_buffer("observation_mean", torch.zeros(spec.input_dim))
        self.register_buffer("observation_std", torch.ones(spec.input_dim))

    def normalise(self, observation: Tensor) -> Tensor:
        """The networks' input for a raw one, (B, input_dim): unchanged or standardised, by `spec.normaliser`."""
        if self.spec.normaliser == "identity":
            return observation
        return self.standardise(observation)

    def standardise(self, observation: Tensor) -> Tensor:
        """z-scores by the training data's mean and deviation, (B, input_dim); `observation_z_max` uses them with any
        normaliser."""
        return (observation - self.observation_mean) / self.observation_std
