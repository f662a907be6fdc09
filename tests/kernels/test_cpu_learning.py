"""Native training networks: values and gradients against float64 autograd, on every instruction set."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import cpu
from kernels.backend import BackendUnavailable
from kernels.cpu.learning import LearningNetworks
from policy import CriticEnsemble, Values, Velocity, VelocityField

ISAS = cpu.supported_isas()
LIMITS = {"fp32": 1e-5, "bf16": 2e-2}
"""The largest relative error of any value or gradient tensor, in norm; or three times torch's error on the same network
in that precision, if that is larger, as it is where sums cancel."""

widths = st.lists(st.integers(17, 80), min_size=1, max_size=4).map(tuple)


class Case:
    """An actor, critics, a batch, and a loss that has a gradient for every parameter, as in training."""

    def __init__(self, actor: VelocityField, critic: CriticEnsemble, rows: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.actor, self.critic = actor, critic
        with torch.no_grad():
            for parameter in [
                *actor.parameters(),
                *critic.parameters(),
            ]:  # so that biases and LayerNorms are not 0 and 1
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        action_dim = actor.layers[-1].get_parameter("bias").shape[0]
        self.observation = torch.randn((rows, actor.obs_dim), generator=generator)
        self.noise = torch.randn((rows, action_dim), generator=generator)
        self.t = torch.rand((rows, 1), generator=generator)
        self.weights = torch.randn((critic.ensemble_size, rows), generator=generator)

    def results(
        self, wrap: Callable[[Any], Any] = lambda network: network, dtype: torch.dtype = torch.float32
    ) -> list[Tensor]:
        """The action after two Euler steps, its values, and all gradients of a loss over both."""
        actor_module = copy.deepcopy(self.actor).to(dtype)
        critic_module = copy.deepcopy(self.critic).to(dtype)
        actor: Velocity = wrap(actor_module)
        critic: Values = wrap(critic_module)
        observation, noise, t = self.observation.to(dtype), self.noise.to(dtype), self.t.to(dtype)
        share = actor.observation_share(observation)
        x = noise + 0.5 * actor(share, noise, t, torch.ones_like(t))
        x = x + 0.5 * actor(share, x, t + 0.5, torch.ones_like(t))
        q = critic(observation, x, 2 * torch.ones_like(t))
        loss = (q * self.weights.to(dtype)).mean() + x.square().mean()
        torch.autograd.backward(loss)
        gradients = [parameter.grad for module in (actor_module, critic_module) for parameter in module.parameters()]
        return [x.detach(), q.detach(), *(g for g in gradients if g is not None)]


def natively(networks: LearningNetworks) -> Callable[[Any], Any]:
    return lambda module: networks.actor(module) if isinstance(module, VelocityField) else networks.critic(module)


def worst(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest relative error of a tensor. Norms below 1 % of the largest one count as 1 %."""
    assert [tensor.shape for tensor in found] == [tensor.shape for tensor in expected]
    floor = 1e-2 * max(float(tensor.norm()) for tensor in expected[2:])
    return max(float((f - e).norm() / max(e.norm(), floor)) for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=8, deadline=None)
@given(
    obs_dim=st.integers(1, 60),
    action_dim=st.integers(1, 20),
    actor_hidden=widths,
    critic_hidden=widths,
    members=st.integers(1, 4),
    conditioned=st.booleans(),
    layer_norm=st.booleans(),
    rows=st.integers(1, 150),
    threads=st.integers(1, 3),
)
def test_values_and_gradients(
    isa: str,
    precision: Any,
    obs_dim: int,
    action_dim: int,
    actor_hidden: tuple[int, ...],
    critic_hidden: tuple[int, ...],
    members: int,
    conditioned: bool,
    layer_norm: bool,
    rows: int,
    threads: int,
) -> None:
    torch.manual_seed(0)
    actor = VelocityField(obs_dim, action_dim, actor_hidden)
    case = Case(actor, CriticEnsemble(obs_dim, action_dim, critic_hidden, members, conditioned, layer_norm), rows)
    found, truth = case.results(natively(LearningNetworks(precision, threads, isa))), case.results(dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        torchs = case.results()
    assert worst(found, truth) <= max(LIMITS[precision], 3 * worst(torchs, truth))


@pytest.fixture
def case() -> Case:
    torch.manual_seed(0)
    return Case(VelocityField(11, 3, (48, 32)), CriticEnsemble(11, 3, (48, 32), 2), rows=40)


@pytest.fixture
def networks() -> LearningNetworks:
    return LearningNetworks("fp32", 2)


def test_changed_parameters_are_seen(case: Case, networks: LearningNetworks) -> None:
    """By a recorded pass and an unrecorded one, in both orders."""
    actor = networks.actor(case.actor)

    def velocity(network: Velocity) -> Tensor:
        share = network.observation_share(case.observation)
        return network(share, case.noise, case.t, torch.ones_like(case.t))

    for change in range(4):
        with torch.no_grad():
            case.actor.layers[1].get_parameter("weight").mul_(1.1)
        with torch.set_grad_enabled(change % 2 == 0):
            first = velocity(actor).detach()
        with torch.set_grad_enabled(change % 2 == 1):
            second = velocity(actor).detach()
        expected = velocity(case.actor).detach()
        torch.testing.assert_close(first, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(second, expected, rtol=1e-5, atol=1e-6)


def test_gradients_add_up(case: Case, networks: LearningNetworks) -> None:
    """Three recorded passes, of two sizes, before any backward: each has its tape, and all add to the same `grad`."""
    actor = networks.actor(case.actor)

    def loss(network: Velocity, rows: int) -> Tensor:
        share = network.observation_share(case.observation[:rows])
        return network(share, case.noise[:rows], case.t[:rows], case.t[:rows]).square().sum()

    for network in (actor, case.actor):
        case.actor.zero_grad()
        losses = [loss(network, rows) for rows in (40, 7, 40)]
        for one in losses:
            torch.autograd.backward(one)
        gradients = [parameter.grad for parameter in case.actor.parameters()]
        if network is actor:
            found = [gradient.clone() for gradient in gradients if gradient is not None]
    for ours, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_frozen_critics_pass_the_gradient_on(case: Case, networks: LearningNetworks) -> None:
    """As in the Q loss: the action gets a gradient, the critics' parameters none."""
    case.critic.requires_grad_(False)
    gradients = []
    for critic in (networks.critic(case.critic), case.critic):
        action = case.noise.clone().requires_grad_()
        torch.autograd.backward(critic(case.observation, action, case.t).sum())
        gradients.append(action.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in case.critic.parameters())


def test_nan_stays_in_its_row(case: Case, networks: LearningNetworks) -> None:
    case.noise[5] = float("nan")
    share = case.actor.observation_share(case.observation)
    velocity = networks.actor(case.actor)(share, case.noise, case.t, case.t)
    assert torch.isnan(velocity[5]).all()
    assert torch.isfinite(velocity[torch.arange(40) != 5]).all()


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(BackendUnavailable, match="lacks mmx"):
        LearningNetworks(isa="mmx")
