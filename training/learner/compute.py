"""`Compute`: the implementation of an update's expensive parts, and the choice of it.

Torch's operators, the same captured as CUDA graphs, or on a CPU this package's native networks. All work on the same
`nn.Parameter`s, `grad`s and `torch.optim` states, so a run can continue with another one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from kernels.backend import BackendUnavailable
from kernels.cpu.learning import LearningNetworks
from kernels.cpu.updates import NativeUpdates
from kernels.threads import available_cores
from policy import CriticEnsemble, Values, Velocity, VelocityField

log = logging.getLogger(__name__)

Choice = Literal["auto", "native", "torch", "graphs"]


class Compute(Protocol):
    """The parts of an update that cost time."""

    name: str
    torch_threads: int
    """Threads that torch's operators should use beside it."""
    captures: bool
    """Whether the learner replays updates from CUDA graphs."""

    def actor(self, actor: VelocityField) -> Velocity:
        """The velocity field with `actor`'s parameters, differentiable."""
        ...

    def critic(self, critic: CriticEnsemble) -> Values:
        """The Q ensemble with `critic`'s parameters, differentiable."""
        ...

    def autocast(self) -> AbstractContextManager[Any]:
        """The context that forward passes run in."""
        ...

    def clip_and_step(self, optimizer: torch.optim.Optimizer, max_norm: float) -> Tensor:
        """Clip the gradients to a global norm of `max_norm`, step, and clear them. Returns the norm before clipping."""
        ...

    def move_average(self, targets: Sequence[Tensor], online: Sequence[Tensor], tau: float) -> None:
        """targets <- (1 - tau) targets + tau online."""
        ...


class TorchCompute:
    """Torch's operators, eager or captured; bf16 is torch's autocast."""

    def __init__(
        self, device: torch.device, precision: Literal["fp32", "bf16"], threads: int = 0, captures: bool = False
    ) -> None:
        self.name = f"{'graphs' if captures else 'torch'}/{precision}/{device.type}"
        self.captures = captures
        self.torch_threads = threads or available_cores()
        self._device, self._bf16 = device, precision == "bf16"

    def actor(self, actor: VelocityField) -> Velocity:
        return actor

    def critic(self, critic: CriticEnsemble) -> Values:
        return critic

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, torch.bfloat16) if self._bf16 else nullcontext()

    def clip_and_step(self, optimizer: torch.optim.Optimizer, max_norm: float) -> Tensor:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for parameter in parameters:
            if parameter.grad is None:  # a shared Adam reads zeros from the network that this loss does not reach
                parameter.grad = torch.zeros_like(parameter)
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    @torch.no_grad()
    def move_average(self, targets: Sequence[Tensor], online: Sequence[Tensor], tau: float) -> None:
        # This rounds as the released code does: after one update a target parameter's change has a relative error below
        # 1e-5, and with `lerp` it had 1e-3.
        torch._foreach_mul_(list(targets), 1 - tau)
        torch._foreach_add_(list(targets), list(online), alpha=tau)


class NativeCompute(NativeUpdates, LearningNetworks):
    """The native CPU networks (`kernels.cpu.learning`): hidden products in the given precision, the rest in float32."""

    # Only small operators are left to torch, and its OpenMP threads would spin on the native threads' cores.
    torch_threads = 1
    captures = False

    def __init__(self, precision: Literal["fp32", "bf16"], threads: int) -> None:
        LearningNetworks.__init__(self, precision, threads)
        NativeUpdates.__init__(self, self.pool, self.isa)
        self.name = f"native/{precision}/{self.isa}"

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext()


def choose_compute(
    choice: Choice, device: torch.device, precision: Literal["fp32", "bf16"], threads: int = 0
) -> Compute:
    """The `Compute` that `choice` names. "auto": graphs on a CUDA card; native on a CPU where the extension was built.

    Raises:
        BackendUnavailable: native or graphs were asked for and cannot run.
    """
    if choice == "graphs" and device.type != "cuda":
        raise BackendUnavailable(f"compute: graphs are captured on a CUDA device, not on {device}")
    if choice == "graphs" or (choice == "auto" and device.type == "cuda"):
        return TorchCompute(device, precision, threads, captures=True)
    if choice == "torch" or (choice == "auto" and device.type != "cpu"):
        return TorchCompute(device, precision, threads)
    if device.type != "cpu":
        raise BackendUnavailable(f"compute: native runs on the CPU, not on {device}")
    try:
        return NativeCompute(precision, threads)
    except BackendUnavailable as error:
        if choice == "native":
            raise
        log.warning("training with torch's operators: %s", error)
        return TorchCompute(device, precision, threads)
