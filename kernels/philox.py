"""Normal noise from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

Noise is a pure function of (seed, candidate, dimension). Number j of action i in a chunk is dimension
i * action_dim + j:

    key     = (seed mod 2^32, seed div 2^32)
    counter = (candidate, dimension div 4, 0, 0)
    word    = dimension mod 4

Box-Muller turns words 0 and 1 into dimensions 4j and 4j + 1, and words 2 and 3 into 4j + 2 and 4j + 3:

    u = ((first word >> 8) + 1) / 2^24 in (0, 1]      v = (second word >> 8) / 2^24 in [0, 1)
    z_even = sqrt(-2 ln u) cos(2 pi v)                z_odd = sqrt(-2 ln u) sin(2 pi v)

u and v have 24 bits, so they are exact in float32; the reference evaluates the rest in float64 and rounds once.
Other backends must match the integers bit for bit and the normals within 1e-6.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
ROUNDS = 10


def philox4x32(counter: tuple[Tensor, ...], key: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Ten rounds of Philox4x32.

    Args:
        counter: four int64 tensors holding uint32 values, of shapes that broadcast.
        key: two tensors of the same kind.

    Returns:
        Four int64 tensors of uint32 values.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # int64 products wrap modulo 2^64, so they have the bits of the unsigned product. The mask removes the
        # shift's sign extension.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        high0, high1 = (p0 >> 32) & _MASK, (p1 >> 32) & _MASK
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, p1 & _MASK, high0 ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def standard_normals(seed: Tensor, candidate: Tensor, dims: int) -> Tensor:
    """z ~ N(0, I), one row for each (seed, candidate).

    Args:
        seed: (rows,) int64 holding the bits of a uint64.
        candidate: (rows,) int64 in [0, 2^31).
        dims: the number of dimensions.

    Returns:
        (rows, dims) float32.
    """
    blocks = (dims + 3) // 4
    block = torch.arange(blocks, device=seed.device)
    zero = torch.zeros_like(block)
    key = (seed[:, None] & _MASK, (seed[:, None] >> 32) & _MASK)
    words = torch.stack(philox4x32((candidate[:, None], block, zero, zero), key), dim=-1)
    pairs = (words >> 8).to(torch.float64).view(len(seed), blocks * 2, 2)
    radius = torch.sqrt(-2 * torch.log((pairs[..., 0] + 1) / 2**24))
    angle = pairs[..., 1] * (2 * math.pi / 2**24)
    normals = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)
    return normals.view(len(seed), blocks * 4)[:, :dims].float()
