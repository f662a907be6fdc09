"""Select each request's candidate of the highest value, across tiles.

A request's rows may be in several tiles. Each row updates the request's `best` key by an atomic maximum, then adds 1 to
its counter `arrived`. The row that completes the count writes the request's results. Keys order rows by value, then by
lower index.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.gpu.layers import layer_norm_of, load_sums

_NONFINITE_KEY = tl.constexpr(0x7FFFFFFFFFFFFFFF)


@triton.jit
def _ensemble(
    partials, tail, inverse_width, layer_norm, aggregate_min, members, layers, blocks, capacity, rows
):  # fmt: skip
    """The value for selection (mean or minimum over the members) and the members' standard deviation, each (rows,).

    Args:
        tail: (members, 2): sum of the output weights, bias.
    """
    mean = tl.zeros(rows.shape, tl.float32)
    squares = tl.zeros(rows.shape, tl.float32)
    lowest = tl.zeros(rows.shape, tl.float32)
    for member in tl.range(0, members, num_stages=1, disable_licm=True):
        sums = partials + (member * layers + layers - 1) * blocks * 3 * capacity
        centre, scale = layer_norm_of(sums, blocks, capacity, rows, inverse_width, layer_norm)
        value = load_sums(sums, 2, blocks, capacity, rows)
        value = scale * (value - centre * tl.load(tail + 2 * member)) + tl.load(tail + 2 * member + 1)
        change = value - mean  # Welford: accurate for values of magnitude 50 that differ by 0.01
        mean += change / (member * 1.0 + 1.0)
        squares += change * (value - mean)
        lowest = tl.where((member == 0) | (value < lowest) | (value != value), value, lowest)
    chosen = tl.where(aggregate_min != 0, lowest, mean)
    return chosen, tl.sqrt_rn(squares / (members * 1.0))


@triton.jit
def _is_finite(value):
    return (value == value) & (tl.abs(value) != float("inf"))


@triton.jit
def _key(value, place, finite):
    """int64 keys ordered by (value, lower place). A non-finite row's key is the highest, so its request is marked."""
    bits = tl.where(value == 0.0, 0.0, value).to(tl.int32, bitcast=True)  # -0 equals 0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    key = (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - place).to(tl.int64)
    return tl.where(finite, key, _NONFINITE_KEY)


@triton.jit
def select(
    table, best, arrived, action, value, deviation, index, nonfinite, row_value, row_deviation, x, partials,
    tail, inverse_width, layer_norm, aggregate_min, members, layers, blocks, capacity, rows, request, real, chunk_dim,
    action_stride,
):  # fmt: skip
    """Score this tile's rows, enter them in their requests' selection, and write the results that are complete."""
    chosen, spread = _ensemble(
        partials, tail, inverse_width, layer_norm, aggregate_min, members, layers, blocks, capacity, rows
    )  # fmt: skip
    finite = _is_finite(chosen) & _is_finite(spread)
    for start in tl.range(0, chunk_dim, 16, num_stages=1, disable_licm=True):
        dimension = start + tl.arange(0, 16)
        x_block = tl.load(x + rows[:, None] * action_stride + dimension[None, :])
        finite = finite & (tl.sum((x_block != x_block).to(tl.int32), axis=1) == 0)
    tl.store(row_value + rows, chosen, mask=real)
    tl.store(row_deviation + rows, spread, mask=real)

    entry = table + request * 4
    first_candidate = tl.load(entry + 1)
    start_row = tl.load(entry + 2)
    tl.atomic_max(best + request, _key(chosen, rows - start_row, finite), mask=real, sem="relaxed")
    tl.debug_barrier()  # all stores of this tile come before its rows are counted
    before = tl.atomic_add(arrived + request, 1, mask=real, sem="acq_rel")
    last = real & (before + 1 == tl.load(entry + 3))
    tl.debug_barrier()

    key = tl.load(best + request, mask=last, other=0, volatile=True)
    place = (0x7FFFFFFF - (key & 0x7FFFFFFF)).to(tl.int32)
    winner = start_row + tl.where(last, place, 0)
    tl.store(value + request, tl.load(row_value + winner, mask=last, other=0.0, volatile=True), mask=last)
    tl.store(deviation + request, tl.load(row_deviation + winner, mask=last, other=0.0, volatile=True), mask=last)
    tl.store(index + request, first_candidate + place, mask=last)
    tl.store(nonfinite + request, (key == _NONFINITE_KEY).to(tl.int32), mask=last)
    for start in tl.range(0, chunk_dim, 16, num_stages=1, disable_licm=True):
        dimension = start + tl.arange(0, 16)
        wanted = last[:, None] & (dimension < chunk_dim)[None, :]
        source = x + winner[:, None] * action_stride + dimension[None, :]
        target = action + request[:, None] * chunk_dim + dimension[None, :]
        tl.store(target, tl.load(source, mask=wanted, other=0.0, volatile=True), mask=wanted)
