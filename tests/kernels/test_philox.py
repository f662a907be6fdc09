"""The generator against its authors' published vectors, and the normals against their distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kernels.philox import philox4x32, standard_normals

# Random123's kat_vectors: philox 4x32 10, counter, key, result.
PUBLISHED = [
    (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000),
        (0x00000000, 0x00000000),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def words(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    def tensors(values: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(torch.tensor([value]) for value in values)

    return tuple(int(word) for word in philox4x32(tensors(counter), tensors(key)))


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_published_vectors(counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert words(counter, key) == expected


def philox_by_the_book(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """The paper's definition in Python's unbounded integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return tuple(c)


uint32 = st.integers(0, 2**32 - 1)


@given(counter=st.tuples(uint32, uint32, uint32, uint32), key=st.tuples(uint32, uint32))
def test_equals_the_definition(counter: tuple[int, ...], key: tuple[int, ...]) -> None:
    assert words(counter, key) == philox_by_the_book(counter, key)


@given(seed=st.integers(0, 2**64 - 1), candidate=st.integers(0, 2**31 - 1), dims=st.integers(1, 23))
def test_normals_follow_the_contract(seed: int, candidate: int, dims: int) -> None:
    """Box-Muller as the docstring of kernels.philox defines it, in Python floats."""
    signed = seed - 2**64 if seed >= 2**63 else seed
    found = standard_normals(torch.tensor([signed]), torch.tensor([candidate]), dims)[0]
    for dimension in range(dims):
        block = philox_by_the_book((candidate, dimension // 4, 0, 0), (seed & 0xFFFFFFFF, seed >> 32))
        pair = dimension % 4 // 2 * 2
        u, v = ((block[pair] >> 8) + 1) / 2**24, (block[pair + 1] >> 8) / 2**24
        wave = math.cos if dimension % 2 == 0 else math.sin
        assert float(found[dimension]) == pytest.approx(math.sqrt(-2 * math.log(u)) * wave(2 * math.pi * v), abs=1e-6)


def test_a_row_depends_on_its_own_seed_and_candidate_only() -> None:
    seeds, candidates = torch.arange(50) * 7919, torch.arange(50) % 13
    together = standard_normals(seeds, candidates, 5)
    for row in range(50):
        assert torch.equal(standard_normals(seeds[row : row + 1], candidates[row : row + 1], 5)[0], together[row])
    assert torch.equal(standard_normals(seeds, candidates, 9)[:, :5], together)


def test_normals_are_standard_normal() -> None:
    sample = standard_normals(torch.arange(4000), torch.zeros(4000, dtype=torch.int64), 8).numpy().astype(np.float64)
    assert stats.kstest(sample.ravel(), "norm").pvalue > 1e-3
    correlation = np.corrcoef(sample.T) - np.eye(8)
    assert np.abs(correlation).max() < 0.06  # 3.8 standard errors
