"""The kernel: from noise to chosen action in one launch.

Program (g, s) computes rows g * ROWS .. (g + 1) * ROWS - 1 of the ragged batch, and in every layer the column blocks s,
s + slices, s + 2 * slices, ... Fused: there is one slice, and a program computes whole layers. Split, for small
batches: the slices of a group synchronise through the L2 cache after every layer, because one SM alone can't load the
weights fast enough.

All state of a row is in scratch memory. So the phases between two barriers can also run as one launch each (PHASED);
the interpreter, which runs programs one after another, tests the split mode that way.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.gpu.layers import gelu, layer_norm_of, narrow, product, small_product, store_sums
from kernels.gpu.noise import standard_normals
from kernels.gpu.selection import select


@triton.jit
def _barrier(arrivals, passed, SPLIT: tl.constexpr, PHASED: tl.constexpr):
    """Wait for all slices of the group; their stores are then visible. Returns the number of barriers passed."""
    tl.debug_barrier()
    passed += 1
    if SPLIT and not PHASED:
        tl.atomic_add(arrivals, 1, sem="acq_rel")
        while tl.atomic_add(arrivals, 0, sem="acquire") < passed * tl.num_programs(1):
            pass
        tl.debug_barrier()
    return passed


@triton.jit
def _in_phase(passed, phase, PHASED: tl.constexpr):
    """Whether this launch computes the phase after barrier number `passed`."""
    if PHASED:
        return passed == phase
    else:
        return True


@triton.jit
def _draw_noise(x, rows, stride, seed, candidate, temperature):
    """Store x_0 = temperature * z, (rows, stride), 16 dimensions at a time."""
    for start in tl.range(0, stride, 16, num_stages=1, disable_licm=True):
        dimension = (start + tl.arange(0, 16))[None, :]
        noise = temperature[:, None] * standard_normals(seed[:, None], candidate[:, None], dimension)
        tl.store(x + rows[:, None] * stride + dimension, noise)


@triton.jit
def _actor_share(
    share, rows, observations, observation_stride, matrix, vectors, width, stride, slice_,
    COLUMNS: tl.constexpr, BF16: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Store W_s s + b of the actor's first layer, which all steps use."""
    for first in tl.range(slice_ * COLUMNS, width, tl.num_programs(1) * COLUMNS, num_stages=1, disable_licm=True):
        columns = first + tl.arange(0, COLUMNS)
        sums = tl.zeros((rows.shape[0], COLUMNS), tl.float32) + tl.load(vectors + columns)[None, :]
        sums = small_product(
            sums, observations, observation_stride, matrix, stride, columns, BF16, INTERPRET
        )  # fmt: skip
        tl.store(share + rows[:, None] * stride + columns[None, :], sums)


@triton.jit
def _actor_first(
    output, output_stride, share, rows, actions, action_stride, t, d, matrix, rank_one, width, stride, slice_,
    COLUMNS: tl.constexpr, BF16: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """gelu(share + W_x x + t w_t + d w_d)."""
    for first in tl.range(slice_ * COLUMNS, width, tl.num_programs(1) * COLUMNS, num_stages=1, disable_licm=True):
        columns = first + tl.arange(0, COLUMNS)
        sums = tl.load(share + rows[:, None] * stride + columns[None, :])
        sums += t[:, None] * tl.load(rank_one + columns)[None, :]
        sums += d[:, None] * tl.load(rank_one + stride + columns)[None, :]
        sums = small_product(sums, actions, action_stride, matrix, stride, columns, BF16, INTERPRET)
        at = output + rows[:, None] * output_stride + columns[None, :]
        tl.store(at, narrow(gelu(sums), BF16, INTERPRET))


@triton.jit
def _actor_hidden(
    output, inputs, io_stride, rows, matrix, bias, width, stride, slice_,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, STAGES: tl.constexpr, BF16: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """gelu(W h + b)."""
    for first in tl.range(slice_ * COLUMNS, width, tl.num_programs(1) * COLUMNS, num_stages=1, disable_licm=True):
        columns = first + tl.arange(0, COLUMNS)
        sums = tl.zeros((rows.shape[0], COLUMNS), tl.float32)
        sums = product(sums, inputs, io_stride, rows, width, matrix, stride, columns, DEPTH, STAGES)
        sums += tl.load(bias + columns)[None, :]
        at = output + rows[:, None] * io_stride + columns[None, :]
        tl.store(at, narrow(gelu(sums), BF16, INTERPRET))


@triton.jit
def _euler_step(
    x, rows, action_stride, size, last, inputs, input_stride, width, matrix, bias,
    DEPTH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """x += size * (W h + b) for rows that still move (size > 0). A row's last step clips it to [-1, 1]."""
    for start in tl.range(0, action_stride, 16, num_stages=1, disable_licm=True):
        dimension = start + tl.arange(0, 16)
        velocity = tl.zeros((rows.shape[0], 16), tl.float32)
        velocity = product(
            velocity, inputs, input_stride, rows, width, matrix, action_stride, dimension, DEPTH, STAGES
        )  # fmt: skip
        velocity += tl.load(bias + dimension)[None, :]
        at = x + rows[:, None] * action_stride + dimension[None, :]
        before = tl.load(at)
        after = before + size[:, None] * velocity
        # Comparisons with NaN are false, so a NaN stays and its request fails.
        clipped = tl.where(after > 1.0, 1.0, tl.where(after < -1.0, -1.0, after))
        after = tl.where(last[:, None], clipped, after)
        tl.store(at, tl.where(size[:, None] > 0.0, after, before))


@triton.jit
def _critic_first(
    output, output_stride, partials, capacity, rows, observations, observation_stride, actions, action_stride, k,
    matrix, vectors, rank_one, value_weights, last, width, stride, slice_,
    COLUMNS: tl.constexpr, BF16: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """gelu(W_s s + W_a a + k w_k + b), and its sums for LayerNorm."""
    for first in tl.range(slice_ * COLUMNS, width, tl.num_programs(1) * COLUMNS, num_stages=1, disable_licm=True):
        columns = first + tl.arange(0, COLUMNS)
        sums = k[:, None] * tl.load(rank_one + columns)[None, :] + tl.load(vectors + columns)[None, :]
        sums = small_product(
            sums, observations, observation_stride, matrix, stride, columns, BF16, INTERPRET
        )  # fmt: skip
        sums = small_product(
            sums, actions, action_stride, matrix + observation_stride * stride, stride, columns, BF16, INTERPRET
        )  # fmt: skip
        activation = gelu(sums)
        store_sums(partials, first // COLUMNS, capacity, rows, activation, value_weights, columns, last)
        at = output + rows[:, None] * output_stride + columns[None, :]
        tl.store(at, narrow(activation, BF16, INTERPRET))


@triton.jit
def _critic_hidden(
    output, inputs, io_stride, partials_before, partials, capacity, rows, inverse_width, layer_norm,
    matrix, bias, column_sums, value_weights, last, width, stride, slice_,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, STAGES: tl.constexpr, BF16: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """gelu(W LayerNorm(h) + b), computed as gelu((W h - mean * (column sums of W)) / deviation + b)."""
    blocks = tl.cdiv(width, COLUMNS)
    mean, scale = layer_norm_of(partials_before, blocks, capacity, rows, inverse_width, layer_norm)
    for first in tl.range(slice_ * COLUMNS, width, tl.num_programs(1) * COLUMNS, num_stages=1, disable_licm=True):
        columns = first + tl.arange(0, COLUMNS)
        sums = tl.zeros((rows.shape[0], COLUMNS), tl.float32)
        sums = product(sums, inputs, io_stride, rows, width, matrix, stride, columns, DEPTH, STAGES)
        sums = scale[:, None] * (sums - mean[:, None] * tl.load(column_sums + columns)[None, :])
        activation = gelu(sums + tl.load(bias + columns)[None, :])
        store_sums(partials, first // COLUMNS, capacity, rows, activation, value_weights, columns, last)
        at = output + rows[:, None] * io_stride + columns[None, :]
        tl.store(at, narrow(activation, BF16, INTERPRET))


NOT_SPECIALISED = (
    "chunk_dim", "actor_layers", "critic_layers", "members", "max_steps", "layer_norm", "aggregate_min", "phase",
)  # fmt: skip
"""Arguments for which Triton must not compile special versions (it would, for 1 and for multiples of 16)."""


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def sample_and_score(
    # inputs of each launch: see kernels.gpu.arena
    header, table, observation, temperature, seed, best, arrived, barrier_counts, row_request,
    # results
    action, value, deviation, index, nonfinite, row_value,
    # scratch: see kernels.gpu.bucket
    x, hidden, share, partials, row_deviation,
    # weights: see kernels.gpu.packing
    actor_matrix, actor_vectors, actor_output, actor_output_bias, critic_matrix, critic_vectors, critic_tail,
    critic_inverse_width, schedule, critic_k,
    # dimensions
    capacity, observation_stride, chunk_dim, action_stride, hidden_stride, actor_width, actor_stride, actor_layers,
    critic_width, critic_stride, critic_layers, members, max_steps, layer_norm, aggregate_min, phase,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, STAGES: tl.constexpr, BF16: tl.constexpr,
    SPLIT: tl.constexpr, PHASED: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Compute one group of rows, from noise to results. The modules named above document the buffers' shapes."""
    group = tl.program_id(0)
    slice_ = tl.program_id(1)
    total = tl.load(header)
    if group * ROWS >= total:
        return
    barrier_count = barrier_counts + group
    rows = group * ROWS + tl.arange(0, ROWS)
    request = tl.load(row_request + rows)
    entry = table + request * 4
    steps = tl.load(entry)
    candidate = tl.load(entry + 1) + rows - tl.load(entry + 2)
    longest = tl.max(tl.where(rows < total, steps, 0), axis=0)
    observations = observation + request * observation_stride
    x += slice_ * capacity * action_stride  # every slice has its own copy, which saves one barrier per step
    actions = x + rows * action_stride
    hidden_size = capacity * hidden_stride
    passed = 0
    turn = 0  # which of the two hidden buffers is written next

    if _in_phase(passed, phase, PHASED):
        _draw_noise(x, rows, action_stride, tl.load(seed + request), candidate, tl.load(temperature + request))
        _actor_share(
            share, rows, observations, observation_stride, actor_matrix, actor_vectors, actor_width, actor_stride,
            slice_, COLUMNS, BF16, INTERPRET,
        )  # fmt: skip
    tl.debug_barrier()

    for step in tl.range(0, longest, num_stages=1, disable_licm=True):
        moves = step < steps
        at = schedule + (steps * max_steps + step) * 3
        t = tl.load(at, mask=moves, other=0.0)
        d = tl.load(at + 1, mask=moves, other=0.0)
        size = tl.load(at + 2, mask=moves, other=0.0)
        if _in_phase(passed, phase, PHASED):
            _actor_first(
                hidden + turn * hidden_size, hidden_stride, share, rows, actions, action_stride, t, d,
                actor_matrix + observation_stride * actor_stride, actor_vectors + actor_layers * actor_stride,
                actor_width, actor_stride, slice_, COLUMNS, BF16, INTERPRET,
            )  # fmt: skip
        passed = _barrier(barrier_count, passed, SPLIT, PHASED)
        for layer in tl.range(1, actor_layers, num_stages=1, disable_licm=True):
            if _in_phase(passed, phase, PHASED):
                before = observation_stride + action_stride + (layer - 1) * actor_width
                _actor_hidden(
                    hidden + (1 - turn) * hidden_size, hidden + turn * hidden_size, hidden_stride, rows,
                    actor_matrix + before * actor_stride, actor_vectors + layer * actor_stride,
                    actor_width, actor_stride, slice_, COLUMNS, DEPTH, STAGES, BF16, INTERPRET,
                )  # fmt: skip
            turn = 1 - turn
            passed = _barrier(barrier_count, passed, SPLIT, PHASED)
        if _in_phase(passed, phase, PHASED):
            _euler_step(
                x, rows, action_stride, size, step + 1 == steps, hidden + turn * hidden_size, hidden_stride,
                actor_width, actor_output, actor_output_bias, DEPTH, STAGES,
            )  # fmt: skip
        turn = 1 - turn
        tl.debug_barrier()

    blocks = tl.cdiv(critic_width, COLUMNS)
    k = tl.load(critic_k + steps)
    for member in tl.range(0, members, num_stages=1, disable_licm=True):
        matrix = critic_matrix + member * (
            (observation_stride + action_stride + (critic_layers - 1) * critic_width) * critic_stride
        )
        vectors = critic_vectors + member * (2 * critic_layers + 2) * critic_stride
        sums = partials + member * critic_layers * blocks * 3 * capacity
        value_weights = vectors + (2 * critic_layers + 1) * critic_stride
        if _in_phase(passed, phase, PHASED):
            _critic_first(
                hidden + turn * hidden_size, hidden_stride, sums, capacity, rows, observations, observation_stride,
                actions, action_stride, k, matrix, vectors, vectors + 2 * critic_layers * critic_stride, value_weights,
                critic_layers == 1, critic_width, critic_stride, slice_, COLUMNS, BF16, INTERPRET,
            )  # fmt: skip
        passed = _barrier(barrier_count, passed, SPLIT, PHASED)
        for layer in tl.range(1, critic_layers, num_stages=1, disable_licm=True):
            if _in_phase(passed, phase, PHASED):
                before = observation_stride + action_stride + (layer - 1) * critic_width
                _critic_hidden(
                    hidden + (1 - turn) * hidden_size, hidden + turn * hidden_size, hidden_stride,
                    sums + (layer - 1) * blocks * 3 * capacity, sums + layer * blocks * 3 * capacity, capacity, rows,
                    tl.load(critic_inverse_width + layer - 1), layer_norm, matrix + before * critic_stride,
                    vectors + layer * critic_stride, vectors + (critic_layers + layer) * critic_stride, value_weights,
                    layer + 1 == critic_layers, critic_width, critic_stride, slice_,
                    COLUMNS, DEPTH, STAGES, BF16, INTERPRET,
                )  # fmt: skip
            turn = 1 - turn
            passed = _barrier(barrier_count, passed, SPLIT, PHASED)
        turn = 1 - turn

    # Nested: `_in_phase` is a constant in compiled code, and Triton can't combine constants and numbers by `and`.
    if slice_ == 0:  # noqa: SIM102
        if _in_phase(passed, phase, PHASED):
            select(
                table, best, arrived, action, value, deviation, index, nonfinite, row_value, row_deviation, x, partials,
                critic_tail, tl.load(critic_inverse_width + critic_layers - 1), layer_norm, aggregate_min, members,
                critic_layers, blocks, capacity, rows, request, rows < total, chunk_dim, action_stride,
            )  # fmt: skip
