"""Native forward and backward passes of actor and critics, for training on CPUs.

A pass through all layers is one native call, with bias, GELU, its derivative and LayerNorm fused into the matrix
products. Weight gradients are added directly to the parameters' `grad`. Parameters stay ordinary `nn.Parameter`s; their
packed copies are renewed when they have changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kernels.backend import BackendUnavailable, Precision
from kernels.cpu import _native, default_precision, supported_isas
from kernels.threads import native_threads
from policy import CriticEnsemble, VelocityField
from policy.networks import LAYER_NORM_EPS


class LearningNetworks:
    """Makes differentiable native networks that share one thread pool.

    Args:
        precision: of weights, activations and their gradients in the hidden layers' products. Accumulation, forward
            passes of first and last layers, LayerNorm, GELU, parameters and their gradients are float32 in both.
        threads: compute threads, the calling one included; 0 is `native_threads`.
        isa: an instruction set from `supported_isas`; None takes the first.

    Raises:
        BackendUnavailable: the native extension was not built, or the machine lacks `isa`.
    """

    def __init__(self, precision: Precision = "auto", threads: int = 0, isa: str | None = None) -> None:
        isas = supported_isas()
        self.isa = isa or isas[0]
        if self.isa not in isas:
            raise BackendUnavailable(f"this machine lacks {self.isa}; it has {', '.join(isas)}")
        self.precision = default_precision(self.isa) if precision == "auto" else precision
        self.pool = _native().Pool(threads or native_threads())

    def actor(self, actor: VelocityField) -> NativeVelocityField:
        """A native version of `actor`, over its parameters, which must be float32 and on the CPU."""
        inputs = actor.layers[0].get_parameter("weight").shape[1] - actor.obs_dim
        return NativeVelocityField(actor, self._stack(list(actor.layers), 1, inputs, skip=actor.obs_dim))

    def critic(self, critic: CriticEnsemble) -> NativeCriticEnsemble:
        """A native version of `critic`, over its parameters, which must be float32 and on the CPU."""
        inputs = critic.layers[0].get_parameter("weight").shape[-1]
        stack = self._stack(list(critic.layers), critic.ensemble_size, inputs, norms=list(critic.norms))
        return NativeCriticEnsemble(critic, stack)

    def _stack(
        self, layers: list[nn.Module], members: int, inputs: int, skip: int = 0, norms: Sequence[nn.Module] = ()
    ) -> _Stack:
        widths = [layer.get_parameter("bias").shape[-1] for layer in layers]
        native = _native().Stack(
            pool=self.pool,
            isa=self.isa,
            precision=self.precision,
            members=members,
            inputs=inputs,
            widths=widths[:-1],
            outputs=widths[-1],
            layer_norm_eps=LAYER_NORM_EPS if norms else None,
        )
        return _Stack(native, layers, norms, members, skip)


class NativeVelocityField:
    """A `VelocityField` with native passes: the same arguments and parameters."""

    def __init__(self, actor: VelocityField, stack: _Stack) -> None:
        self._actor, self._stack = actor, stack

    def observation_share(self, observation: Tensor) -> Tensor:
        """See `VelocityField.observation_share`."""
        return self._actor.observation_share(observation)

    def __call__(self, share: Tensor, x: Tensor, t: Tensor, log2_steps: Tensor) -> Tensor:
        """See `VelocityField.forward`."""
        return self._stack(torch.cat([x, t, log2_steps], dim=1), share, differentiable=(0, x.shape[1]))[0]


class NativeCriticEnsemble:
    """A `CriticEnsemble` with native passes: the same arguments and parameters."""

    def __init__(self, critic: CriticEnsemble, stack: _Stack) -> None:
        self._critic, self._stack = critic, stack

    def __call__(self, observation: Tensor, action: Tensor, num_steps: Tensor) -> Tensor:
        """See `CriticEnsemble.forward`. Differentiable with respect to `action`, not to `observation`."""
        columns = [observation, action, num_steps] if self._critic.conditioned else [observation, action]
        differentiable = (observation.shape[1], action.shape[1])
        return self._stack(torch.cat(columns, dim=1), None, differentiable)[..., 0]


class _Stack:
    """The layers of one network or ensemble: torch's parameters, computed by the extension's `Stack`.

    Args:
        native: the extension's `Stack`.
        layers: modules with `weight` (out, in) and `bias`; an ensemble has them stacked along a leading axis.
        norms: the hidden layers' LayerNorms, modules with `weight` and `bias`; or none.
        members: networks of the ensemble; 1 for a single network.
        skip: leading columns of the first layer's weight that the caller computes. Their product plus the first bias
            is then passed to each call as `share`.
    """

    def __init__(
        self, native: Any, layers: Sequence[nn.Module], norms: Sequence[nn.Module], members: int, skip: int
    ) -> None:
        self._native, self._members, self._skip = native, members, skip
        self._weights: list[Tensor] = [layer.get_parameter("weight") for layer in layers]
        self._biases: list[Tensor] = [layer.get_parameter("bias") for layer in layers]
        self._scales: list[Tensor] = [norm.get_parameter("weight") for norm in norms]
        self._shifts: list[Tensor] = [norm.get_parameter("bias") for norm in norms]
        self._outputs = self._biases[-1].shape[-1]
        self._parameter_arrays = self._arrays([list(group) for group in self._groups()])
        self._gradients: list[Tensor] = []
        self._no_arrays: dict[str, Any] = self._arrays([[], [], [], []])
        self._gradient_arrays = self._no_arrays
        self.parameters = [*self._weights, *self._biases[skip > 0 :], *self._scales, *self._shifts]
        self.packed: list[int] = []
        self._pack_backward = self._packed_backward = False

    def __call__(self, inputs: Tensor, share: Tensor | None, differentiable: tuple[int, int]) -> Tensor:
        """The output, (members, rows, outputs), of inputs (rows, inputs).

        Args:
            differentiable: first and number of the input columns that get a gradient.
        """
        anchor = self._weights[0]
        needs_gradient = anchor.requires_grad or inputs.requires_grad or (share is not None and share.requires_grad)
        if torch.is_grad_enabled() and needs_gradient:
            output: Tensor = _Pass.apply(self, differentiable, inputs, share, anchor)  # type: ignore[no-untyped-call]
            return output
        output = inputs.new_empty(self._members, len(inputs), self._outputs)
        self.renew()
        self._native.forward(_numpy(inputs), _optional(share), _numpy(output))
        return output

    def renew(self) -> None:
        """Pack the parameters if they have changed, also for backward passes once a pass was recorded."""
        versions = [parameter._version for parameter in self.parameters]
        if versions != self.packed or (self._pack_backward and not self._packed_backward):
            self._native.pack(**self._parameter_arrays, backward=self._pack_backward)
            self.packed, self._packed_backward = versions, self._pack_backward

    def record(self, inputs: Tensor, share: Tensor | None) -> tuple[Tensor, Any]:
        """Run a forward pass. Returns its output and the tape that `backward` needs."""
        output = inputs.new_empty(self._members, len(inputs), self._outputs)
        self._pack_backward = True
        self.renew()
        return output, self._native.record(_numpy(inputs), _optional(share), _numpy(output))

    def backward(
        self, tape: Any, d_output: Tensor, first: int, d_inputs: Tensor | None, d_share: Tensor | None, learn: bool
    ) -> None:
        """Run the backward pass of `tape`.

        Args:
            d_output: gradient of the output.
            first: input column of the first column of `d_inputs`.
            d_inputs: (rows, columns), filled with the gradient of those input columns; None computes none.
            d_share: (rows, hidden), filled likewise.
            learn: add the parameters' gradients to their `grad`.
        """
        self._native.backward(
            tape,
            _numpy(d_output.contiguous()),
            first=first,
            d_input=_optional(d_inputs),
            d_share=_optional(d_share),
            **(self._current_gradient_arrays() if learn else self._no_arrays),
        )

    def _groups(self) -> tuple[list[Tensor], ...]:
        return self._weights, self._biases, self._scales, self._shifts

    def _current_gradient_arrays(self) -> dict[str, Any]:
        """NumPy views of the parameters' `grad`, cached while those are the same tensors."""
        gradients = [gradient(parameter) for group in self._groups() for parameter in group]
        if len(gradients) != len(self._gradients) or any(
            a is not b for a, b in zip(gradients, self._gradients, strict=True)
        ):
            self._gradients = gradients
            groups = [[gradient(parameter) for parameter in group] for group in self._groups()]
            self._gradient_arrays = self._arrays(groups)
        return self._gradient_arrays

    def _arrays(self, groups: Sequence[Sequence[Tensor]]) -> dict[str, Any]:
        """Views of weights, biases, scales and shifts as the extension takes them: they share the tensors' memory."""
        weights, biases, scales, shifts = ([_numpy(tensor) for tensor in group] for group in groups)
        if self._skip and biases:
            biases = [None, *biases[1:]]
        return {"weight": weights, "bias": biases, "scale": scales, "shift": shifts, "skip": self._skip}


class _Pass(torch.autograd.Function):
    """One recorded pass. It adds parameter gradients to `grad` itself, so autograd handles only inputs and share."""

    @staticmethod
    def forward(
        ctx: Any, stack: _Stack, differentiable: tuple[int, int], inputs: Tensor, share: Tensor | None, anchor: Tensor
    ) -> Tensor:
        """The output of `stack`. `anchor` is a parameter: as an argument it makes autograd call `backward` even if
        inputs and share need no gradient."""
        ctx.stack, ctx.differentiable, ctx.learn = stack, differentiable, anchor.requires_grad
        ctx.shapes = inputs.shape, None if share is None else share.shape
        output, ctx.tape = stack.record(inputs, share)
        ctx.packed = stack.packed
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of inputs and share."""
        (rows, columns), (first, count) = ctx.shapes[0], ctx.differentiable
        d_inputs = d_output.new_empty(rows, count) if ctx.needs_input_grad[2] else None
        d_share = d_output.new_empty(ctx.shapes[1]) if ctx.needs_input_grad[3] else None
        if ctx.stack.packed != ctx.packed:
            raise RuntimeError("parameters changed between a forward pass and its backward pass")
        ctx.stack.backward(ctx.tape, d_output, first, d_inputs, d_share, ctx.learn)
        ctx.tape = None  # returns its memory to the next pass
        if d_inputs is not None:
            d_inputs = nn.functional.pad(d_inputs, (first, columns - first - count))
        return None, None, d_inputs, d_share, None


def gradient(parameter: Tensor) -> Tensor:
    """`parameter.grad`, set to zeros if it was None."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _numpy(tensor: Tensor) -> Any:
    return tensor.detach().numpy()


def _optional(tensor: Tensor | None) -> Any:
    return None if tensor is None else _numpy(tensor)
