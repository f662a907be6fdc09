"""The noise of `kernels.philox`, in Triton.

Logarithm, sine and cosine are polynomials (Cephes by Moshier, logf and sinf), for two reasons. The hardware's
approximation (lg2.approx, absolute error 2^-22) makes normals wrong by up to 5e-4 where u is near 1. And so the
interpreter tests the code that a device runs. Over all 2^24 values of u and of v, in float32 without fused
multiply-adds, normals are within 1e-6 of the exact ones (`tests/kernels/gpu/test_noise.py`).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _negative_log(u):
    """-ln(u / 2^24) of integers u in 1..2^24, (rows, dims) float32."""
    # Split the float32 into an exponent and a mantissa in [sqrt(1/2), sqrt(2)): accurate near u = 2^24 too.
    shifted = u.to(tl.float32).to(tl.int32, bitcast=True) - 0x3F3504F3
    exponent = ((shifted >> 23) - 24).to(tl.float32)
    x = ((shifted & 0x7FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
    p = 7.0376836292e-2 * x - 1.1514610310e-1
    p = p * x + 1.1676998740e-1
    p = p * x - 1.2420140846e-1
    p = p * x + 1.4249322787e-1
    p = p * x - 1.6668057665e-1
    p = p * x + 2.0000714765e-1
    p = p * x - 2.4999993993e-1
    p = p * x + 3.3333331174e-1
    square = x * x
    tail = p * x * square - 2.12194440e-4 * exponent - 0.5 * square
    return -((x + tail) + 0.693359375 * exponent)


@triton.jit
def _cosine_or_sine(v, odd):
    """cos(2 pi v / 2^24), or sin if `odd` is 1, for integers v in 0..2^24 - 1."""
    quarter = (v + (1 << 21)) >> 22
    angle = (v - (quarter << 22)).to(tl.float32) * 3.7450702829239285e-7  # pi / 2^23; |angle| <= pi / 4
    z = angle * angle
    sine = ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * angle + angle
    cosine = ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2) * z * z - 0.5 * z + 1.0
    turn = quarter - odd  # sin(a) = cos(a - a quarter)
    wave = tl.where((turn & 1) == 0, cosine, sine)
    return tl.where(((turn + 1) & 2) == 0, wave, -wave)


@triton.jit
def philox_words(seed, candidate, dimension):
    """The two random words that make `dimension`: (rows, 1), (rows, 1), (1, dims) -> two (rows, dims) uint32."""
    block = (candidate * 0 + dimension // 4).to(tl.uint32)
    zero = block * 0
    w0, w1, w2, w3 = tl.philox(seed, candidate.to(tl.uint32) + zero, block, zero, zero, 10)
    first_pair = (dimension & 2) == 0
    return tl.where(first_pair, w0, w2), tl.where(first_pair, w1, w3)


@triton.jit
def standard_normals(seed, candidate, dimension):
    """z of (seed, candidate, dimension): (rows, 1) int64, (rows, 1) int32, (1, dims) int32 -> (rows, dims) float32."""
    first, second = philox_words(seed, candidate, dimension)
    radius = tl.sqrt_rn(2.0 * _negative_log((first >> 8).to(tl.int32) + 1))
    return radius * _cosine_or_sine((second >> 8).to(tl.int32), dimension & 1)
