"""Chunks of h actions in the kernel, against the float64 reference and against one long action."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernels.backend import SampleBatch
from tests.kernels.gpu.compare import assert_agrees, reference
from tests.kernels.gpu.conftest import MakeTriton
from tests.kernels.gpu.test_backend import FIELDS, assert_alone_is_packed, assert_no_worse_than_torch_bf16
from tests.policies import random_policy


def ragged(seed: int) -> SampleBatch:
    """Rows of several tiles of 16, of several M."""
    observation = np.random.default_rng(seed).standard_normal((3, 11)).astype(np.float32)
    return SampleBatch.of(observation, [2, 17, 5], [4, 1, 2], [2**64 - 1, 5, 7], return_candidates=True)


@pytest.mark.parametrize(("horizon", "action_dim"), [(4, 5), (16, 8)])
def test_fp32_chunks_agree_with_the_float64_reference(
    horizon: int, action_dim: int, triton_backend: MakeTriton
) -> None:
    policy, batch = random_policy(2, action_horizon=horizon, action_dim=action_dim), ragged(horizon)
    found = triton_backend(policy, precision="fp32").sample_and_score(batch)
    assert found.action.shape == (3, horizon * action_dim)
    expected = reference(policy, batch)
    assert_agrees(batch, found, expected, actions=1e-5, values=1e-5)
    for row in range(3):
        np.testing.assert_allclose(found.candidate_q_std[row], expected.candidate_q_std[row], atol=1e-5)  # type: ignore[index]
        assert found.candidate_q_std[row][found.index[row]] == found.q_std[row]  # type: ignore[index]


def test_a_chunk_has_the_bits_of_one_long_action(triton_backend: MakeTriton) -> None:
    chunks = random_policy(3, action_horizon=5, action_dim=7)
    long = random_policy(4, action_dim=35)
    long.load_state_dict(chunks.state_dict())
    found, expected = (triton_backend(policy).sample_and_score(ragged(1)) for policy in (chunks, long))
    for field in FIELDS:
        assert getattr(found, field).tobytes() == getattr(expected, field).tobytes(), field


@pytest.mark.slow
def test_the_warm_up_check_takes_chunks(triton_backend: MakeTriton) -> None:
    policy = random_policy(actor_hidden=(32,), critic_hidden=(32,), action_horizon=4)
    triton_backend(policy).check()


SHAPES: list[dict[str, Any]] = [
    {"action_horizon": 4, "action_dim": 21, "actor_hidden": (64, 48), "critic_hidden": (130,), "ensemble_size": 3},
    {"action_horizon": 8, "action_dim": 7, "q_agg": "min", "critic_layer_norm": False, "normaliser": "standardise"},
    {"action_horizon": 16, "action_dim": 8, "critic_hidden": (64, 64), "critic_conditioning": "none"},
]


@pytest.mark.slow
@pytest.mark.parametrize("changes", SHAPES)
@pytest.mark.parametrize("options", [{}, {"precision": "fp32"}, {"split": True}])
def test_chunks_of_any_shape(options: dict[str, Any], changes: dict[str, Any], triton_backend: MakeTriton) -> None:
    policy, batch = random_policy(7, **changes), ragged(7)
    backend = triton_backend(policy, **options)
    found = backend.sample_and_score(batch)
    if options.get("precision") == "fp32":
        assert_agrees(batch, found, reference(policy, batch), actions=1e-5, values=1e-5)
    else:
        assert_no_worse_than_torch_bf16(policy, batch, found)
    assert_alone_is_packed(backend, batch, found, 2)
