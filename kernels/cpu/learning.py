"""Actor and critics that learn on the CPU's native networks: the forward and backward passes of training.

A pass through all hidden layers is one native call: bias, GELU, its derivative and LayerNorm happen as a product's
registers are emptied, and a weight gradient is added where the parameter's `grad` lies, without a copy in between.
Parameters stay where they are, ordinary `nn.Parameter`s; their packed copies are renewed when they have changed.
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
    """Makes differentiable networks that share one pool of threads.

    Args:
        precision: of weights, activations and their gradients in hidden products; accumulation, first and last layers'
            forward passes, LayerNorm, GELU, parameters and their gradients are float32 in both.
        threads: compute threads, the calling one among them; 0 is `native_threads`.
        isa: an instruction set that `supported_isas` lists; None takes the first.

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
        """`actor`, computed natively. It must be float32 and on the CPU."""
        inputs = actor.layers[0].get_parameter("weight").shape[1] - actor.obs_dim
        return NativeVelocityField(actor, self._stack(list(actor.layers), 1, inputs, skip=actor.obs_dim))

    def critic(self, critic: CriticEnsemble) -> NativeCriticEnsemble:
        """`critic`, computed natively. It must be float32 and on the CPU."""
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
    """A `VelocityField` whose forward pass is native: same arguments, same parameters."""

    def __init__(self, actor: VelocityField, stack: _Stack) -> None:
        self._actor, self._stack = actor, stack

    def observation_share(self, observation: Tensor) -> Tensor:
        """See `VelocityField.observation_share`."""
        return self._actor.observation_share(observation)

    def __call__(self, share: Tensor, x: Tensor, t: Tensor, log2_steps: Tensor) -> Tensor:
        """See `VelocityField.forward`."""
        return self._stack(torch.cat([x, t, log2_steps], dim=1), share, wanted=(0, x.shape[1]))[0]


class NativeCriticEnsemble:
    """A `CriticEnsemble` whose forward pass is native: same arguments, same parameters."""

    def __init__(self, critic: CriticEnsemble, stack: _Stack) -> None:
        self._critic, self._stack = critic, stack

    def __call__(self, observation: Tensor, action: Tensor, num_steps: Tensor) -> Tensor:
        """See `CriticEnsemble.forward`. Differentiable with respect to `action`, not to `observation`."""
        columns = [observation, action, num_steps] if self._critic.conditioned else [observation, action]
        wanted = (observation.shape[1], action.shape[1])
        return self._stack(torch.cat(columns, dim=1), None, wanted)[..., 0]


class _Stack:
    """The hidden and output layers of one network or ensemble: native, over torch's parameters.

    Args:
        native: the extension's `Stack`.
        layers: modules with `weight` (out, in) and `bias`, stacked along a leading axis for more than one member.
        norms: modules with `weight` and `bias` of each hidden layer's LayerNorm, or none.
        skip: columns of the first layer's weight that others compute (and its bias with them), handed in as a share.
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
        self._numbers = self._arrays([list(group) for group in self._groups()])
        self._gradients: list[Tensor] = []
        self._d_numbers: dict[str, Any] = self._arrays([[], [], [], []])
        self._no_numbers = self._d_numbers
        self.parameters = [*self._weights, *self._biases[skip > 0 :], *self._scales, *self._shifts]
        self.packed: list[int] = []
        self._back = self._packed_back = False

    def __call__(self, inputs: Tensor, share: Tensor | None, wanted: tuple[int, int]) -> Tensor:
        """(members, rows, outputs) of (rows, inputs). `wanted` are first and number of the inputs' columns that get a
        gradient."""
        learns = self._weights[0].requires_grad
        needs_gradient = learns or inputs.requires_grad or (share is not None and share.requires_grad)
        if torch.is_grad_enabled() and needs_gradient:
            output: Tensor = _Pass.apply(self, wanted, inputs, share, self._weights[0])  # type: ignore[no-untyped-call]
            return output
        output = inputs.new_empty(self._members, len(inputs), self._outputs)
        self.renew()
        self._native.forward(_numpy(inputs), _optional(share), _numpy(output))
        return output

    def renew(self) -> None:
        """Pack the parameters again if they have changed since, in a second layout too where gradients go back."""
        versions = [parameter._version for parameter in self.parameters]
        if versions != self.packed or (self._back and not self._packed_back):
            self._native.pack(**self._numbers, backward=self._back)
            self.packed, self._packed_back = versions, self._back

    def record(self, inputs: Tensor, share: Tensor | None) -> tuple[Tensor, Any]:
        """The output, and a tape for `backward`."""
        output = inputs.new_empty(self._members, len(inputs), self._outputs)
        self._back = True
        self.renew()
        return output, self._native.record(_numpy(inputs), _optional(share), _numpy(output))

    def backward(
        self, tape: Any, d_output: Tensor, first: int, d_inputs: Tensor | None, d_share: Tensor | None, learn: bool
    ) -> None:
        """Fill `d_inputs` (rows, some columns from `first` on) and `d_share`, add to the parameters' gradients."""
        self._native.backward(
            tape,
            _numpy(d_output.contiguous()),
            first=first,
            d_input=_optional(d_inputs),
            d_share=_optional(d_share),
            **(self._gradient_arrays() if learn else self._no_numbers),
        )

    def _groups(self) -> tuple[list[Tensor], ...]:
        return self._weights, self._biases, self._scales, self._shifts

    def _gradient_arrays(self) -> dict[str, Any]:
        """The gradients' arrays, made again when somebody has put other tensors there."""
        gradients = [gradient(parameter) for group in self._groups() for parameter in group]
        if len(gradients) != len(self._gradients) or any(
            a is not b for a, b in zip(gradients, self._gradients, strict=True)
        ):
            self._gradients = gradients
            self._d_numbers = self._arrays([[gradient(parameter) for parameter in group] for group in self._groups()])
        return self._d_numbers

    def _arrays(self, groups: Sequence[Sequence[Tensor]]) -> dict[str, Any]:
        """Views of weights, biases, scales and shifts as the extension takes them: they share the tensors' memory."""
        weights, biases, scales, shifts = ([_numpy(tensor) for tensor in group] for group in groups)
        if self._skip and biases:
            biases = [None, *biases[1:]]
        return {"weight": weights, "bias": biases, "scale": scales, "shift": shifts, "skip": self._skip}


class _Pass(torch.autograd.Function):
    """One recorded pass. Gradients of parameters are added where they lie, so autograd never sees them."""

    @staticmethod
    def forward(
        ctx: Any, stack: _Stack, wanted: tuple[int, int], inputs: Tensor, share: Tensor | None, anchor: Tensor
    ) -> Tensor:
        """`anchor` is a parameter: through it the output needs a gradient where inputs and share need none."""
        ctx.stack, ctx.wanted, ctx.learn = stack, wanted, anchor.requires_grad
        ctx.shapes = inputs.shape, None if share is None else share.shape
        output, ctx.tape = stack.record(inputs, share)
        ctx.packed = stack.packed
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of inputs and share."""
        (rows, columns), (first, count) = ctx.shapes[0], ctx.wanted
        d_inputs = d_output.new_empty(rows, count) if ctx.needs_input_grad[2] else None
        d_share = d_output.new_empty(ctx.shapes[1]) if ctx.needs_input_grad[3] else None
        if ctx.stack.packed != ctx.packed:
            raise RuntimeError("parameters changed between a forward pass and its backward pass")
        ctx.stack.backward(ctx.tape, d_output, first, d_inputs, d_share, ctx.learn)
        ctx.tape = None  # its memory serves the next pass
        if d_inputs is not None:
            d_inputs = nn.functional.pad(d_inputs, (first, columns - first - count))
        return None, None, d_inputs, d_share, None


def gradient(parameter: Tensor) -> Tensor:
    """`parameter.grad`; zeros where there was none."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _numpy(tensor: Tensor) -> Any:
    return tensor.detach().numpy()


def _optional(tensor: Tensor | None) -> Any:
    return None if tensor is None else _numpy(tensor)
