"""Optimiser updates on all threads of the native pool: clipping with an Adam step, and moving averages.

Updates are bound by memory, so each number is read and written once. Adam scales a gradient for clipping when it reads
it, and sets it to zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.cpu import _native
from kernels.cpu.learning import gradient


class NativeUpdates:
    """Updates of float32 parameters: steps of a plain `torch.optim.Adam`, in its own state, and moving averages.

    Args:
        pool: the extension's `Pool`.
        isa: an instruction set from `supported_isas`.
    """

    def __init__(self, pool: Any, isa: str) -> None:
        self._updates = _native().Updates(pool, isa)

    def clip_and_step(self, optimizer: torch.optim.Optimizer, max_norm: float) -> Tensor:
        """Scale the gradients to a global norm of at most `max_norm`, step, and set them to zero.

        Returns:
            The norm before scaling.

        Raises:
            TypeError: `optimizer` is not an Adam, or has settings besides learning rate, betas and eps.
        """
        group = _plain_adam(optimizer)
        parameters: list[Tensor] = group["params"]
        states = [_state(optimizer, parameter) for parameter in parameters]
        gradients = [gradient(parameter).numpy() for parameter in parameters]
        norm = math.sqrt(self._updates.sum_of_squares(gradients))
        steps: list[Tensor] = [state["step"] for state in states]
        torch._foreach_add_(steps, 1.0)
        (beta1, beta2), step = group["betas"], float(steps[0])
        self._updates.adam(
            parameters=[parameter.detach().numpy() for parameter in parameters],
            gradients=gradients,
            means=[state["exp_avg"].numpy() for state in states],
            squares=[state["exp_avg_sq"].numpy() for state in states],
            scale=min(1.0, max_norm / (norm + 1e-6)),  # as torch.nn.utils.clip_grad_norm_
            learning_rate=group["lr"],
            beta1=beta1,
            beta2=beta2,
            epsilon=group["eps"],
            correction1=1 - beta1**step,
            root_correction2=math.sqrt(1 - beta2**step),
        )
        torch.autograd.graph.increment_version(parameters)
        return torch.tensor(norm)

    def move_average(self, targets: Sequence[Tensor], online: Sequence[Tensor], tau: float) -> None:
        """targets <- (1 - tau) targets + tau online."""
        self._updates.move_average(
            targets=[target.detach().numpy() for target in targets],
            online=[tensor.detach().numpy() for tensor in online],
            tau=tau,
        )
        torch.autograd.graph.increment_version(list(targets))


def _plain_adam(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    group: dict[str, Any] = optimizer.param_groups[0]
    unknown = [name for name in ("weight_decay", "amsgrad", "maximize") if group.get(name)]
    if not isinstance(optimizer, torch.optim.Adam) or len(optimizer.param_groups) > 1 or unknown:
        raise TypeError(f"expected a plain Adam with one group, found {type(optimizer).__name__} with {unknown}")
    return group


def _state(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Any]:
    """The Adam state of `parameter`, created as torch's Adam does at its first step, so checkpoints are the same."""
    state: dict[str, Any] = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
    return state
