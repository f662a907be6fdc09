"""The kernel's noise against `kernels.philox`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from kernels.gpu.noise import _cosine_or_sine, _negative_log, philox_words, standard_normals
from kernels.philox import philox4x32
from kernels.philox import standard_normals as contract

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROWS, DIMS = 64, 32


@triton.jit
def _draw(seed, candidate, first, second, normals, ROWS: tl.constexpr, DIMS: tl.constexpr):
    rows, dimension = tl.arange(0, ROWS), tl.arange(0, DIMS)[None, :]
    seeds, candidates = tl.load(seed + rows)[:, None], tl.load(candidate + rows)[:, None]
    at = rows[:, None] * DIMS + dimension
    a, b = philox_words(seeds, candidates, dimension)
    tl.store(first + at, a.to(tl.int64))
    tl.store(second + at, b.to(tl.int64))
    tl.store(normals + at, standard_normals(seeds, candidates, dimension))


def seeds_and_candidates() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    seeds = rng.integers(0, 2**64, ROWS, dtype=np.uint64)
    candidates = rng.integers(0, 2**31, ROWS, dtype=np.int32)
    seeds[:4], candidates[:4] = [0, 2**64 - 1, 2**32, 2**63], [0, 2**31 - 1, 1, 0]
    return torch.from_numpy(seeds.view(np.int64)), torch.from_numpy(candidates)


def test_integers_are_bit_equal_and_normals_within_1e_6() -> None:
    seeds, candidates = seeds_and_candidates()
    first, second = torch.empty(2, ROWS, DIMS, dtype=torch.int64, device=DEVICE)
    normals = torch.empty(ROWS, DIMS, device=DEVICE)
    _draw[(1,)](seeds.to(DEVICE), candidates.to(DEVICE), first, second, normals, ROWS=ROWS, DIMS=DIMS)
    dimension = torch.arange(DIMS)
    zero = torch.zeros_like(dimension)
    mask = 0xFFFFFFFF
    key = (seeds[:, None] & mask, (seeds[:, None] >> 32) & mask)
    words = torch.stack(philox4x32((candidates[:, None].long(), dimension // 4, zero, zero), key))
    pair = (dimension % 4 // 2 * 2).expand(ROWS, DIMS)
    assert torch.equal(first.cpu(), words.gather(0, pair[None])[0])
    assert torch.equal(second.cpu(), words.gather(0, pair[None] + 1)[0])
    expected = contract(seeds, candidates.long(), DIMS)
    assert float((normals.cpu() - expected).abs().max()) <= 1e-6


@triton.jit
def _parts(radius, cosine, sine, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(radius + at, tl.sqrt_rn(2.0 * _negative_log(at + 1)))
    tl.store(cosine + at, _cosine_or_sine(at, 0))
    tl.store(sine + at, _cosine_or_sine(at, 1))


@pytest.mark.slow
def test_normals_of_all_word_pairs_are_within_1e_6() -> None:
    """Checks all 2^24 radii and all 2^24 angles, and all products where the sum of both errors could exceed 1e-6."""
    count, block = 2**24, 2**20 if DEVICE == "cpu" else 2**10
    radius, cosine, sine = torch.empty(3, count, device=DEVICE)
    _parts[(count // block,)](radius, cosine, sine, BLOCK=block)
    exact_radius = np.sqrt(-2 * np.log(np.arange(1, count + 1) / count))
    angle = np.arange(count) * (2 * math.pi / count)
    found = radius.cpu().numpy()
    waves = {np.cos: cosine.cpu().numpy(), np.sin: sine.cpu().numpy()}
    wave_error = max(np.abs(wave - exact(angle)).max() for exact, wave in waves.items())
    rounding = np.spacing(exact_radius.astype(np.float32)) / 2
    bound = np.abs(found - exact_radius) + exact_radius * wave_error + rounding
    for row in np.flatnonzero(bound > 1e-6):
        for exact, wave in waves.items():
            assert np.abs(found[row] * wave - exact_radius[row] * exact(angle)).max() <= 1e-6
    assert (bound > 1e-6).sum() < 20
