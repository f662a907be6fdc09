"""`coherent_index` against a search over all pairs, and what it means at its ends."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.commitment import coherent_index


def by_search(candidates: np.ndarray, q: np.ndarray, committed: np.ndarray, coherence: Fraction) -> int:
    """Candidate by candidate, in exact integers: nearer ones are counted, and of those that are kept the best found."""
    flat = [[int(x) for x in row] for row in candidates]
    wanted = [int(x) for x in committed.reshape(-1)]
    distance = [sum((a - b) ** 2 for a, b in zip(row, wanted, strict=False)) for row in flat]
    keep = max(1, math.ceil((1 - coherence) * len(q)))
    best = None
    for one in range(len(q)):
        nearer = sum((distance[other], other) < (distance[one], one) for other in range(len(q)))
        if nearer < keep and (best is None or q[one] > q[best]):
            best = one
    assert best is not None
    return best


@given(data=st.data(), n=st.integers(1, 12), d=st.integers(1, 3), dim=st.integers(1, 3), tenths=st.integers(0, 10))
def test_it_is_the_best_of_the_nearest(data: st.DataObject, n: int, d: int, dim: int, tenths: int) -> None:
    """Small integers, so that distances and values are often equal."""
    numbers = st.integers(-2, 2)
    draw = lambda *shape: np.array(data.draw(st.lists(numbers, min_size=math.prod(shape), max_size=math.prod(shape))))  # noqa: E731
    candidates = draw(n, 4 * dim).reshape(n, 4 * dim).astype(np.float32)
    q, committed = draw(n).astype(np.float32), draw(d, dim).reshape(d, dim).astype(np.float32)
    expected = by_search(candidates, q, committed, Fraction(tenths, 10))
    assert coherent_index(candidates, q, committed, tenths / 10) == expected


def test_its_ends() -> None:
    rng = np.random.default_rng(0)
    candidates, q = rng.normal(size=(64, 8)).astype(np.float32), rng.normal(size=64).astype(np.float32)
    committed = candidates[17, :6].reshape(3, 2)
    assert coherent_index(candidates, q, committed, 0.0) == int(np.argmax(q))
    assert coherent_index(candidates, q, committed, 1.0) == 17
    values = [float(q[coherent_index(candidates, q, committed, share)]) for share in np.linspace(0, 1, 65)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(values))  # coherence is paid for in value


@pytest.mark.parametrize(
    ("coherence", "n", "kept"), [(0.9, 10, 1), (0.5, 64, 32), (0.5, 3, 2), (0.7, 10, 3), (0, 5, 5)]
)
def test_how_many_are_kept(coherence: float, n: int, kept: int) -> None:
    """The farther, the better: the winner is the farthest that is kept."""
    candidates = np.arange(n, dtype=np.float32)[:, None]
    assert coherent_index(candidates, candidates[:, 0], np.zeros((1, 1), np.float32), coherence) == kept - 1
