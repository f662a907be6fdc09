"""Parts of a dense layer of one tile: products, GELU, LayerNorm sums.

Activations, (rows, width), pass from layer to layer through a scratch buffer that stays in the L2 cache. In registers,
a hidden vector of 512 spilled 7 to 244 KB and made 2 MB of code.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def narrow(value, BF16: tl.constexpr, INTERPRET: tl.constexpr):
    """Convert float32 to a matrix product's operand: with BF16, to bfloat16, rounded to nearest even.

    The interpreter's casts truncate, and its products take bfloat16 for integers. There the value is rounded here and
    stays float32.
    """
    if BF16:
        if INTERPRET:
            bits = value.to(tl.uint32, bitcast=True)
            bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
            return tl.where(value != value, value, bits.to(tl.float32, bitcast=True))
        else:
            return value.to(tl.bfloat16)
    else:
        return value


@triton.jit
def gelu(value):
    """GELU, tanh form: 0.5 x (1 + tanh u) = x / (1 + exp(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    return value / (1.0 + tl.exp(value * (-1.5957691216057308 - 0.07135481627159600 * value * value)))


@triton.jit
def small_product(
    accumulator, input_rows, extent, matrix, stride, columns, BF16: tl.constexpr, INTERPRET: tl.constexpr
):  # fmt: skip
    """accumulator + inputs @ matrix, for observations and actions.

    Args:
        accumulator: (rows, columns) float32.
        input_rows: (rows,) pointers to `extent` float32 inputs each, a multiple of 16.
        matrix: (extent, stride).

    With BF16 each input is the sum of two bfloat16 parts, which keeps 16 of its 24 bits. In one part, a raw position of
    20.06 m would become 20.
    """
    inner = tl.arange(0, 16)
    for start in tl.range(0, extent, 16, num_stages=1, disable_licm=True):
        values = tl.load(input_rows[:, None] + (start + inner)[None, :])
        weights = tl.load(matrix + (start + inner)[:, None] * stride + columns[None, :])
        high = narrow(values, BF16, INTERPRET)
        accumulator = tl.dot(high, weights, accumulator, input_precision="ieee")
        if BF16:
            low = narrow(values - high.to(tl.float32), BF16, INTERPRET)
            accumulator = tl.dot(low, weights, accumulator, input_precision="ieee")
    return accumulator


@triton.jit
def product(
    accumulator, inputs, input_stride, rows, extent, matrix, stride, columns,
    DEPTH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """accumulator + inputs[rows, :extent] @ matrix[:extent, columns]; extent is a multiple of DEPTH."""
    inner = tl.arange(0, DEPTH)
    for start in tl.range(0, extent, DEPTH, num_stages=STAGES):
        values = tl.load(inputs + rows[:, None] * input_stride + (start + inner)[None, :])
        weights = tl.load(matrix + (start + inner)[:, None] * stride + columns[None, :])
        accumulator = tl.dot(values, weights, accumulator, input_precision="ieee")
    return accumulator


@triton.jit
def store_sums(partials, block, capacity, rows, activation, value_weights, columns, last):
    """Store sums over one block of columns: the sum and the sum of squares, for LayerNorm. For the last layer, also the
    product with the output weights, for the value.

    Args:
        partials: (blocks, 3, capacity) float32 of this layer.
        activation: (rows, columns) float32.
        value_weights: (width,) float32 of the output layer.
    """
    at = partials + block * 3 * capacity + rows
    tl.store(at, tl.sum(activation, axis=1))
    tl.store(at + capacity, tl.sum(activation * activation, axis=1))
    if last:
        weights = tl.load(value_weights + columns)
        tl.store(at + 2 * capacity, tl.sum(activation * weights[None, :], axis=1))


@triton.jit
def load_sums(partials, which, blocks, capacity, rows):
    """One of a layer's three sums, (rows,). The column blocks' parts are added in order of the blocks."""
    at = partials + which * capacity + rows
    total = tl.load(at)
    for block in tl.range(1, blocks, num_stages=1, disable_licm=True):
        total += tl.load(at + block * 3 * capacity)
    return total


@triton.jit
def layer_norm_of(partials, blocks, capacity, rows, inverse_width, layer_norm):
    """A layer's mean and 1 / standard deviation, each (rows,); 0 and 1 without LayerNorm."""
    mean = load_sums(partials, 0, blocks, capacity, rows) * inverse_width
    variance = load_sums(partials, 1, blocks, capacity, rows) * inverse_width - mean * mean
    # Not max(variance, 0), which would turn a NaN into a number.
    deviation = tl.sqrt_rn(tl.where(variance < 0.0, 0.0, variance) + 1e-6)
    return tl.where(layer_norm != 0, mean, 0.0), tl.where(layer_norm != 0, 1.0 / deviation, 1.0)
