"""Native optimiser steps and moving averages against torch's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from kernels import cpu
from kernels.cpu.updates import NativeUpdates

SHAPES = [(3, 5), (1,), (129,), (300, 257)]


@pytest.fixture(params=cpu.supported_isas())
def updates(request: pytest.FixtureRequest) -> NativeUpdates:
    return NativeUpdates(cpu._native().Pool(2), request.param)


def parameters(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def set_gradients(of: list[nn.Parameter], scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in of:
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("scale", [1e-4, 10.0])  # gradient norms below and above the clip
def test_adam(updates: NativeUpdates, scale: float) -> None:
    ours, theirs = parameters(0), parameters(0)
    adam = torch.optim.Adam(ours, lr=1e-3)
    judge = [p.detach().double().requires_grad_() for p in theirs]
    judge_adam = torch.optim.Adam(judge, lr=1e-3)
    for step in range(5):
        set_gradients(ours, scale, step)
        for parameter, our in zip(judge, ours, strict=True):
            assert our.grad is not None
            parameter.grad = our.grad.double()
        versions = [parameter._version for parameter in ours]
        norm = updates.clip_and_step(adam, 1.0)
        expected = nn.utils.clip_grad_norm_(judge, 1.0)
        judge_adam.step()
        assert float(norm) == pytest.approx(float(expected), rel=1e-6)
        assert all(p._version > before for p, before in zip(ours, versions, strict=True))
        assert all(p.grad is not None and not p.grad.any() for p in ours)
    for our, judged, start in zip(ours, judge, theirs, strict=True):
        change, expected_change = our.detach() - start.detach(), judged.detach() - start.detach()
        assert float((change - expected_change).norm() / expected_change.norm()) < 1e-4


def test_the_state_is_torchs_own(updates: NativeUpdates) -> None:
    """Native and torch steps can alternate on the same state."""
    ours, theirs = parameters(0), parameters(0)
    adam, other = (torch.optim.Adam(p, lr=1e-3, fused=True) for p in (ours, theirs))
    for step in range(4):
        set_gradients(ours, 1e-4, step)
        set_gradients(theirs, 1e-4, step)
        if step % 2:
            adam.step()
        else:
            updates.clip_and_step(adam, 1.0)
        other.step()
        adam.load_state_dict(copy.deepcopy(adam.state_dict()))
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-5, atol=1e-7)


def test_moving_average(updates: NativeUpdates) -> None:
    targets, online = parameters(0), parameters(1)
    expected: list[Tensor] = [0.9 * t.detach() + 0.1 * o.detach() for t, o in zip(targets, online, strict=True)]
    updates.move_average(targets, online, 0.1)
    for target, value in zip(targets, expected, strict=True):
        torch.testing.assert_close(target.detach(), value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.SGD(parameters(0), lr=1e-3),
        torch.optim.AdamW(parameters(0), lr=1e-3, weight_decay=1e-2),
        torch.optim.Adam(parameters(0), lr=1e-3, amsgrad=True),
    ],
)
def test_other_optimisers_are_refused(optimizer: torch.optim.Optimizer) -> None:
    updates = NativeUpdates(cpu._native().Pool(1), "portable")
    with pytest.raises(TypeError, match="plain Adam"):
        updates.clip_and_step(optimizer, 1.0)
