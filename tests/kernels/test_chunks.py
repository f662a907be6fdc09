"""Chunks of h actions on the CPU's backends: the definition's, and the bits of one long action."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.backend import Backend, SampleBatch
from kernels.cpu import CpuBackend, supported_isas
from kernels.reference import ReferenceBackend
from policy import Policy
from tests.kernels import naive
from tests.policies import random_policy

HORIZONS = (1, 4, 8, 16)
BACKENDS: dict[str, Callable[[Policy], Backend]] = {
    "reference": ReferenceBackend,
    **{
        f"cpu/{precision}/{isa}": partial(CpuBackend, precision=precision, threads=2, isa=isa)
        for isa in supported_isas()
        for precision in ("fp32", "bf16")
    },
}


def observations(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 11)).astype(np.float32)


def chunk_policy(seed: int, horizon: int, action_dim: int, **changes: Any) -> Policy:
    return random_policy(seed, action_horizon=horizon, action_dim=action_dim, **changes)


@settings(max_examples=15, deadline=None)
@given(
    horizon=st.sampled_from(HORIZONS),
    action_dim=st.integers(1, 9),
    n=st.integers(1, 20),
    m=st.integers(1, 8),
    seed=st.integers(0, 2**64 - 1),
    actor=st.sampled_from([(32,), (33, 20)]),
)
@pytest.mark.parametrize("name", [name for name in BACKENDS if "bf16" not in name])
def test_the_best_chunk_is_the_definitions(
    name: str, horizon: int, action_dim: int, n: int, m: int, seed: int, actor: tuple[int, ...]
) -> None:
    policy = chunk_policy(seed % 97, horizon, action_dim, actor_hidden=actor)
    batch = SampleBatch.of(observations(1), n, m, seed, return_candidates=True)
    found = BACKENDS[name](policy).sample_and_score(batch)
    expected = naive.sample_and_score(policy, batch.observation[0], n, m, seed)
    assert found.action.shape == (1, horizon * action_dim)
    np.testing.assert_allclose(found.candidates, expected.candidates[None], atol=2e-5)
    np.testing.assert_allclose(found.candidate_q, expected.q[None], atol=2e-5, rtol=1e-5)
    index = int(found.index[0])
    assert expected.q[index] >= expected.q.max() - 1e-4
    np.testing.assert_array_equal(found.action[0], found.candidates[0][index])  # type: ignore[index]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(("horizon", "action_dim"), [(4, 5), (8, 3), (16, 8)])
def test_a_chunk_has_the_bits_of_one_long_action(name: str, horizon: int, action_dim: int) -> None:
    """The same weights in a policy of horizon 1, whose action has horizon * action_dim numbers."""
    changes = {"actor_hidden": (70, 33), "critic_hidden": (48,), "ensemble_size": 3}
    chunks = chunk_policy(5, horizon, action_dim, **changes)
    long = chunk_policy(6, 1, horizon * action_dim, **changes)
    long.load_state_dict(chunks.state_dict())
    n, m = [1, 40, 7], [8, 1, 4]
    batch = SampleBatch.of(observations(3), n, m, range(3), [1.0, 0.5, 2.0], return_candidates=True)
    found, expected = (BACKENDS[name](policy).sample_and_score(batch) for policy in (chunks, long))
    for field in ("action", "q", "q_std", "index", "q_first", "q_sum", "q_sumsq"):
        assert getattr(found, field).tobytes() == getattr(expected, field).tobytes(), field
    for ours, theirs in zip(found.candidates, expected.candidates, strict=True):  # type: ignore[arg-type]
        assert ours.tobytes() == theirs.tobytes()


def test_bf16_chunks_are_close_to_float64() -> None:
    """Within 2e-2, relative in norm, the limit of bf16 actions (tests/kernels/test_cpu.py)."""
    changes: dict[str, Any] = {"actor_hidden": (128, 128), "critic_hidden": (128, 128)}
    for horizon in HORIZONS:
        batch = SampleBatch.of(observations(4, horizon), 32, [1, 2, 4, 8], range(4), return_candidates=True)
        exact = ReferenceBackend(chunk_policy(horizon, horizon, 5, **changes), dtype=torch.float64)
        expected = np.concatenate(exact.sample_and_score(batch).candidates)  # type: ignore[arg-type]
        backend = CpuBackend(chunk_policy(horizon, horizon, 5, **changes), "bf16", 2)
        found = np.concatenate(backend.sample_and_score(batch).candidates)  # type: ignore[arg-type]
        assert np.linalg.norm(found - expected) <= 2e-2 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", BACKENDS)
def test_every_candidate_has_its_spread(name: str) -> None:
    """The winner's is `q_std`, to the bit; all are those of float64."""
    policy = chunk_policy(7, 4, 3, ensemble_size=3, q_agg="min")
    batch = SampleBatch.of(observations(3), [5, 1, 20], [8, 2, 4], range(3), return_candidates=True)
    found = BACKENDS[name](policy).sample_and_score(batch)
    exact = ReferenceBackend(chunk_policy(7, 4, 3, ensemble_size=3, q_agg="min"), dtype=torch.float64)
    expected = exact.sample_and_score(batch).candidate_q_std
    assert found.candidate_q_std is not None
    assert expected is not None
    for row in range(3):
        assert found.candidate_q_std[row][found.index[row]] == found.q_std[row]
        tolerance = {"rtol": 0.2, "atol": 2e-2} if "bf16" in name else {"atol": 2e-5}
        np.testing.assert_allclose(found.candidate_q_std[row], expected[row], **tolerance)
    assert BACKENDS[name](policy).sample_and_score(replace(batch, return_candidates=False)).candidate_q_std is None
