"""Pack a policy's weights for the kernel: transposed, padded, stacked, with LayerNorm folded into the next layer.

    matrix (nets, inputs, stride)       compute type. Rows: observation, action, then each hidden layer's inputs
    vectors (nets, layers.., stride)    float32. Rows: a bias for each layer, column sums for each layer (critics),
                                        the rank-one columns (t and d, or k), output weights (critics)

Folding: W LayerNorm(g) + b, with LayerNorm(g) = (g - mean) / deviation * gamma + beta, equals
(gamma W) g / deviation - mean / deviation * (column sums of gamma W) + (W beta + b). So a layer multiplies the output g
of GELU, and then needs two numbers per row: mean and deviation. The column sums are of the rounded matrix, so that the
mean cancels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.schedule import step_table
from policy import Policy, PolicySpec

INPUT_MULTIPLE = 16
WIDTH_MULTIPLE = 64
COLUMN_MULTIPLE = 256


def padded(size: int, multiple: int) -> int:
    """`size` rounded up to a multiple of `multiple`."""
    return -(-size // multiple) * multiple


@dataclass(frozen=True)
class Widths:
    """Padded dimensions of a policy's networks.

    Attributes:
        observation, action: inputs, multiples of 16.
        actor, critic: the widest hidden layer, a multiple of 64; loops run to it.
        actor_stride, critic_stride: columns in memory, multiples of 256, so that no tile needs a mask.
        actor_layers, critic_layers: the number of hidden layers.
        members: the number of critics.
    """

    observation: int
    action: int
    actor: int
    critic: int
    actor_stride: int
    critic_stride: int
    actor_layers: int
    critic_layers: int
    members: int

    @classmethod
    def of(cls, spec: PolicySpec) -> Widths:
        """The padded dimensions for `spec`."""
        actor, critic = max(spec.actor_hidden), max(spec.critic_hidden)
        return cls(
            observation=padded(spec.input_dim, INPUT_MULTIPLE),
            action=padded(spec.chunk_dim, INPUT_MULTIPLE),
            actor=padded(actor, WIDTH_MULTIPLE),
            critic=padded(critic, WIDTH_MULTIPLE),
            actor_stride=padded(actor, COLUMN_MULTIPLE),
            critic_stride=padded(critic, COLUMN_MULTIPLE),
            actor_layers=len(spec.actor_hidden),
            critic_layers=len(spec.critic_hidden),
            members=spec.ensemble_size,
        )

    @property
    def hidden_stride(self) -> int:
        """Columns of the scratch buffer for activations."""
        return max(self.actor_stride, self.critic_stride)


@dataclass(frozen=True)
class PackedPolicy:
    """A policy as the kernel reads it.

    Attributes:
        actor_matrix: (observation + action + (layers - 1) * width, stride).
        actor_vectors: (layers + 2, stride): biases, columns of t and d.
        actor_output, actor_output_bias: (width, action), (action,).
        critic_matrix: (members, observation + action + (layers - 1) * width, stride).
        critic_vectors: (members, 2 * layers + 2, stride): biases, column sums, column of k, output weights.
        critic_tail: (members, 2): sum of the output weights, output bias.
        critic_inverse_width: (layers,), 1 / width before padding.
        schedule: (M_disc + 1, M_disc, 3): t, d and length of step [M, i].
        critic_k: (M_disc + 1,).
    """

    actor_matrix: Tensor
    actor_vectors: Tensor
    actor_output: Tensor
    actor_output_bias: Tensor
    critic_matrix: Tensor
    critic_vectors: Tensor
    critic_tail: Tensor
    critic_inverse_width: Tensor
    schedule: Tensor
    critic_k: Tensor


class _Network(NamedTuple):
    matrix: Tensor
    vectors: Tensor
    output: Tensor
    output_bias: Tensor


def pack_policy(policy: Policy, device: torch.device, dtype: torch.dtype, store: torch.dtype) -> PackedPolicy:
    """Pack a copy of the weights of `policy`.

    Args:
        policy: in any precision, on any device.
        device: the device of the packed weights.
        dtype: the type that matrices are rounded to.
        store: the type that they are stored in: `dtype`, or float32 for the interpreter.
    """
    spec, widths = policy.spec, Widths.of(policy.spec)
    # float64, so that folding adds no error beside the kernel's own.
    weights = {name: tensor.detach().to("cpu", torch.float64) for name, tensor in policy.state_dict().items()}
    actor = _actor(weights, spec, widths)
    critics = [_critic(weights, spec, widths, member, dtype) for member in range(widths.members)]
    table = step_table(spec.denoise_timesteps, spec.max_backprop_steps, torch.device("cpu"), torch.float64)

    def matrix(tensor: Tensor) -> Tensor:
        return tensor.to(dtype).to(store).to(device).contiguous()

    def vector(tensor: Tensor) -> Tensor:
        return tensor.to(torch.float32).to(device).contiguous()

    return PackedPolicy(
        actor_matrix=matrix(actor.matrix),
        actor_vectors=vector(actor.vectors),
        actor_output=matrix(actor.output),
        actor_output_bias=vector(actor.output_bias),
        critic_matrix=matrix(torch.stack([critic.matrix for critic in critics])),
        critic_vectors=vector(torch.stack([critic.vectors for critic in critics])),
        critic_tail=vector(torch.stack([critic.output_bias for critic in critics])),
        critic_inverse_width=vector(1 / torch.tensor(spec.critic_hidden, dtype=torch.float64)),
        schedule=vector(torch.stack([table.t, table.log2_steps, torch.exp2(-table.log2_steps)], dim=-1)),
        critic_k=vector(table.critic_steps),
    )


def _actor(weights: dict[str, Tensor], spec: PolicySpec, widths: Widths) -> _Network:
    layers = widths.actor_layers
    matrix = torch.zeros(_inputs(widths, widths.actor, layers), widths.actor_stride, dtype=torch.float64)
    vectors = torch.zeros(layers + 2, widths.actor_stride, dtype=torch.float64)
    first = weights["actor.layers.0.weight"].T
    _put_first(matrix, first, spec, widths)
    _put(vectors[layers:], first[spec.input_dim + spec.chunk_dim :])  # t and d
    for layer in range(layers):
        _put(vectors[layer], weights[f"actor.layers.{layer}.bias"])
        if layer:
            at = _inputs(widths, widths.actor, layer)
            _put(matrix[at:], weights[f"actor.layers.{layer}.weight"].T)
    output = torch.zeros(widths.actor, widths.action, dtype=torch.float64)
    bias = torch.zeros(widths.action, dtype=torch.float64)
    _put(output, weights[f"actor.layers.{layers}.weight"].T)
    _put(bias, weights[f"actor.layers.{layers}.bias"])
    return _Network(matrix, vectors, output, bias)


def _critic(weights: dict[str, Tensor], spec: PolicySpec, widths: Widths, member: int, dtype: torch.dtype) -> _Network:
    layers = widths.critic_layers
    matrix = torch.zeros(_inputs(widths, widths.critic, layers), widths.critic_stride, dtype=torch.float64)
    vectors = torch.zeros(2 * layers + 2, widths.critic_stride, dtype=torch.float64)
    first = weights["critic.layers.0.weight"][member].T
    _put_first(matrix, first, spec, widths)
    _put(
        vectors[2 * layers], first[spec.input_dim + spec.chunk_dim :].sum(0)
    )  # k, or zeros if the critic has no such input
    _put(vectors[0], weights["critic.layers.0.bias"][member])
    for layer in range(1, layers + 1):
        weight = weights[f"critic.layers.{layer}.weight"][member].T
        bias = weights[f"critic.layers.{layer}.bias"][member]
        if spec.critic_layer_norm:
            bias = bias + weights[f"critic.norms.{layer - 1}.bias"][member] @ weight
            weight = weights[f"critic.norms.{layer - 1}.weight"][member][:, None] * weight
        if layer < layers:
            _put(matrix[_inputs(widths, widths.critic, layer) :], weight)
            _put(vectors[layer], bias)
            _put(vectors[layers + layer], weight.to(dtype).to(torch.float64).sum(0))
        else:
            _put(vectors[2 * layers + 1], weight[:, 0])
            tail = torch.stack([weight.to(torch.float32).to(torch.float64).sum(), bias[0]])
    return _Network(matrix, vectors, vectors[2 * layers + 1], tail)


def _inputs(widths: Widths, width: int, layer: int) -> int:
    """The matrix row at which the weights of hidden layer `layer` >= 1 begin."""
    return widths.observation + widths.action + (layer - 1) * width


def _put_first(matrix: Tensor, weight: Tensor, spec: PolicySpec, widths: Widths) -> None:
    """Copy the first layer's rows for observation and action, each starting at a multiple of 16."""
    _put(matrix, weight[: spec.input_dim])
    _put(matrix[widths.observation :], weight[spec.input_dim : spec.input_dim + spec.chunk_dim])


def _put(target: Tensor, values: Tensor) -> None:
    """Copy `values` to the start of each dimension of `target`; the padding stays 0."""
    target[tuple(slice(0, size) for size in values.shape)] = values
