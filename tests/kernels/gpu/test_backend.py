"""`TritonBackend` against the float64 reference and the naive sampler (tests/kernels/naive.py)."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kernels.backend import (
    BackendMismatch,
    BackendUnavailable,
    DeviceLost,
    DeviceOutOfMemory,
    SampleBatch,
    SampleResult,
    UnwrittenOutput,
)
from kernels.choice import create_backend
from kernels.gpu import bucket as bucket_module
from kernels.gpu.backend import TritonBackend
from kernels.gpu.configuration import TILES
from kernels.reference import ReferenceBackend
from policy import networks
from tests.kernels import naive
from tests.kernels.gpu.compare import assert_agrees, reference
from tests.kernels.gpu.conftest import MakeTriton
from tests.policies import random_policy

FIELDS = ("action", "q", "q_std", "index", "q_first", "nonfinite")


def batch_of(obs_dim: int = 11, seed: int = 0, rows: int = 18, **changes: Any) -> SampleBatch:
    """A ragged batch of several M, with one request of `rows` rows that spans tiles of 16 or 64."""
    steps, candidates = [8, 3, 1, 5, 2], [1, rows, 7, 3, 4]
    observation = np.random.default_rng(seed).standard_normal((5, obs_dim)).astype(np.float32)
    seeds = [2**64 - 1, 5, 2**32, 7, 0]
    return SampleBatch.of(observation, candidates, steps, seeds, **{"return_candidates": True, **changes})


def one(batch: SampleBatch, r: int) -> SampleBatch:
    columns = ("observation", "num_candidates", "num_steps", "seed", "temperature", "first_candidate")
    return SampleBatch(**{name: getattr(batch, name)[r : r + 1] for name in columns}, return_candidates=True)


POLICIES = [
    {},
    {"actor_hidden": (64, 48, 64), "critic_hidden": (40,), "ensemble_size": 5, "q_agg": "min", "action_dim": 17},
    {"critic_conditioning": "none", "critic_layer_norm": False, "ensemble_size": 1, "max_backprop_steps": 2},
    {"normaliser": "standardise", "actor_hidden": (33,), "critic_hidden": (64, 65), "obs_dim": 1, "action_dim": 1},
]


@pytest.mark.parametrize("changes", POLICIES)
def test_fp32_agrees_with_the_float64_reference_within_1e_5(
    changes: dict[str, Any], launches: list[tuple[int, ...]], triton_backend: MakeTriton
) -> None:
    policy = random_policy(2, **changes)
    batch = batch_of(policy.spec.obs_dim, rows=70, temperature=[1.0, 1.0, 0.0, 2.0, 0.5])
    found = triton_backend(policy, precision="fp32").sample_and_score(batch)
    assert len(launches) == 1
    assert_agrees(batch, found, reference(policy, batch), actions=1e-5, values=1e-5)


def test_fp32_agrees_with_the_naive_sampler(triton_backend: MakeTriton) -> None:
    policy = random_policy(4, normaliser="standardise")
    batch = batch_of(seed=1, first_candidate=[0, 3, 0, 100, 7])
    found = triton_backend(policy, precision="fp32").sample_and_score(batch)
    assert found.candidates is not None
    for r in (0, 2, 3):
        n, m, first = int(batch.num_candidates[r]), int(batch.num_steps[r]), int(batch.first_candidate[r])
        expected = naive.sample_and_score(policy, batch.observation[r], n, m, int(batch.seed[r]), first=first)
        np.testing.assert_allclose(found.candidates[r], expected.candidates, atol=1e-5)
        np.testing.assert_allclose(found.q[r], expected.q.max(), atol=1e-5)
        np.testing.assert_allclose(found.q_std[r], expected.members[expected.index].std(), atol=1e-5)
        assert found.index[r] == first + expected.index


def errors(found: SampleResult, expected: SampleResult) -> tuple[float, float]:
    """Root mean square error of all candidates' actions and values."""

    def rms(name: str) -> float:
        pairs = zip(getattr(found, name), getattr(expected, name), strict=True)
        return float(np.sqrt(np.mean(np.concatenate([(a.astype(float) - b).ravel() ** 2 for a, b in pairs]))))

    return rms("candidates"), rms("candidate_q")


def in_torch_bf16(policy: Any, batch: SampleBatch) -> SampleResult:
    """The result of torch's autocast, with the output layers in bfloat16 too (our networks keep them in float32)."""
    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
        patch.setattr(networks, "_linear_in_float32", lambda h, weight, bias: F.linear(h, weight, bias).float())
        return ReferenceBackend(copy.deepcopy(policy)).sample_and_score(batch)


def assert_no_worse_than_torch_bf16(policy: Any, batch: SampleBatch, found: SampleResult) -> None:
    expected, torchs = reference(policy, batch), in_torch_bf16(policy, batch)
    for ours, theirs in zip(errors(found, expected), errors(torchs, expected), strict=True):
        assert ours <= theirs
    largest = [np.abs(a - b).max() for a, b in zip(torchs.candidates or [], expected.candidates or [], strict=True)]
    values = [np.abs(a - b).max() for a, b in zip(torchs.candidate_q or [], expected.candidate_q or [], strict=True)]
    assert_agrees(batch, found, expected, actions=1.5 * float(max(largest)), values=1.5 * float(max(values)))


@pytest.mark.parametrize("changes", POLICIES[:3])
def test_bf16_is_no_worse_than_torch_in_bf16(
    changes: dict[str, Any], launches: list[tuple[int, ...]], triton_backend: MakeTriton
) -> None:
    """RMS error at most that of torch's autocast (seen: 0.4 to 0.9 times), largest error at most 1.5 times."""
    policy = random_policy(2, **changes)
    batch = batch_of(policy.spec.obs_dim)
    found = triton_backend(policy).sample_and_score(batch)
    assert len(launches) == 1
    assert_no_worse_than_torch_bf16(policy, batch, found)


def test_a_raw_position_keeps_its_digits_in_bf16(triton_backend: MakeTriton) -> None:
    """20.06 rounds to 20 in bfloat16, so in bfloat16 both observations would give the same action."""
    policy = random_policy(3)
    first = policy.actor.layers[0]
    first.weight[:, 0] = (15 * first.weight[:, 0]).bfloat16().float()  # rounding the weights then changes nothing
    first.bias -= 20 * first.weight[:, 0]
    observation = np.zeros((2, 11), np.float32)
    observation[:, 0] = 20.0, 20.06
    batch = SampleBatch.of(observation, 1, 1, 0, temperature=0.0, return_candidates=True)
    found, expected = triton_backend(policy).sample_and_score(batch), reference(policy, batch)
    moved = expected.action[1] - expected.action[0]
    assert np.abs(moved).max() > 3e-2
    np.testing.assert_allclose(found.action[1] - found.action[0], moved, atol=1e-2)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_whole_ragged_batch_is_one_launch(
    precision: str, launches: list[tuple[int, ...]], triton_backend: MakeTriton
) -> None:
    triton_backend(random_policy(), precision=precision).sample_and_score(batch_of(rows=70))  # 85 rows
    assert launches == [(8 if precision == "bf16" else 2, 1)]  # a power of two of them, in tiles of 16 or 64


def assert_alone_is_packed(backend: TritonBackend, batch: SampleBatch, whole: SampleResult, r: int) -> None:
    alone = backend.sample_and_score(one(batch, r))
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(alone, name)[0], getattr(whole, name)[r], err_msg=name)
    assert alone.candidates is not None
    assert whole.candidates is not None
    np.testing.assert_array_equal(alone.candidates[0], whole.candidates[r])


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_request_has_the_same_bits_alone_and_in_a_batch(precision: str, triton_backend: MakeTriton) -> None:
    policy, batch = random_policy(5), batch_of(rows=18 if precision == "bf16" else 70)
    backend = triton_backend(policy, precision=precision)
    whole = backend.sample_and_score(batch)
    for r in (0, 1, 4):
        assert_alone_is_packed(backend, batch, whole, r)


def test_split_columns_give_the_fused_bits(
    launches: list[tuple[int, ...]], triton_backend: MakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the interpreter each phase between two barriers is one launch."""
    policy = random_policy(5, actor_hidden=(100, 70), critic_hidden=(130,), ensemble_size=2)
    observation = np.random.default_rng(0).standard_normal((3, 11)).astype(np.float32)
    batch = SampleBatch.of(observation, [19, 2, 9], [1, 3, 2], range(3), return_candidates=True)
    split = triton_backend(policy, split=True).sample_and_score(batch)
    assert launches == [(2, 3)] * (3 * 2 + 2 * 1 + 1)  # 32 rows by 16, 130 columns by 64; M * layers, members * layers
    tile = replace(TILES["16x64/split"], split=False)
    monkeypatch.setattr("kernels.gpu.backend.choose_tile", lambda *arguments: tile)
    fused = triton_backend(policy).sample_and_score(batch)
    assert launches[-1] == (2, 1)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(split, name), getattr(fused, name), err_msg=name)
    assert_agrees(batch, split, reference(policy, batch), actions=2e-2, values=4e-2)


def test_ties_go_to_the_lowest_index(triton_backend: MakeTriton) -> None:
    policy = random_policy()
    batch = SampleBatch.of(np.ones((2, 11), np.float32), [9, 40], 2, 3, temperature=0.0, first_candidate=[0, 5])
    assert list(triton_backend(policy).sample_and_score(batch).index) == [0, 5]


def test_a_nonfinite_observation_fails_alone(triton_backend: MakeTriton) -> None:
    batch = batch_of()
    batch.observation[1] = np.nan
    result = triton_backend(random_policy()).sample_and_score(batch)
    assert list(result.nonfinite) == [False, True, False, False, False]
    assert np.isfinite(result.action[[0, 2, 3, 4]]).all()


@pytest.mark.parametrize("name", ["actor.layers.1.weight", "critic.layers.0.bias", "critic.norms.1.weight"])
def test_nan_weights_mark_all_requests_nonfinite(name: str, triton_backend: MakeTriton) -> None:
    policy = random_policy()
    policy.state_dict()[name].view(-1)[5] = np.nan
    assert triton_backend(policy).sample_and_score(batch_of()).nonfinite.all()


def test_results_do_not_depend_on_old_buffer_contents(triton_backend: MakeTriton) -> None:
    """After another batch, and with NaN in all scratch buffers, a batch has the same result."""
    policy, batch, other = random_policy(6, ensemble_size=2), batch_of(), batch_of(seed=9)
    backend = triton_backend(policy)
    expected = triton_backend(policy).sample_and_score(batch)
    backend.sample_and_score(other)
    (bucket,) = backend._buckets.values()
    for scratch in bucket.scratch.values():
        scratch.fill_(np.nan)
    found = backend.sample_and_score(batch)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


def test_unwritten_results_are_an_error(triton_backend: MakeTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("a captured graph ignores the replaced launch")
    monkeypatch.setattr(bucket_module, "launch", lambda *arguments: None)
    with pytest.raises(UnwrittenOutput):
        triton_backend(random_policy()).sample_and_score(batch_of())


def test_candidates_come_only_when_asked_for(triton_backend: MakeTriton) -> None:
    result = triton_backend(random_policy()).sample_and_score(batch_of(return_candidates=False))
    assert result.candidates is None
    assert result.candidate_q is None


def test_buffers_are_allocated_once_per_size(triton_backend: MakeTriton) -> None:
    backend = triton_backend(random_policy())
    for rows in (33, 40, 64):
        backend.sample_and_score(SampleBatch.of(np.zeros((1, 11), np.float32), rows, 1, 0))
    assert len(backend._buckets) == 1


def test_the_warm_up_check_detects_a_wrong_kernel(triton_backend: MakeTriton) -> None:
    policy = random_policy(actor_hidden=(32,), critic_hidden=(32,))
    backend = triton_backend(policy)
    backend.check()
    backend._packed.critic_vectors[:, 0] += 0.5
    with pytest.raises(BackendMismatch, match="request 0"):
        backend.check()


def test_engine_names_have_precision_device_and_tile(triton_backend: MakeTriton) -> None:
    names = [
        triton_backend(random_policy(), **options).engine
        for options in ({}, {"precision": "fp32"}, {"replay": "fastest"}, {"split": True})
    ]
    place = names[0].split("/")[2]
    assert names == [f"triton/{rest}" for rest in (
        f"bf16/{place}/16x256", f"fp32/{place}/64x64", f"bf16/{place}/fastest", f"bf16/{place}/16x64"
    )]  # fmt: skip


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), DeviceOutOfMemory),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), DeviceLost),
        (torch.AcceleratorError("device-side failure"), DeviceLost),
    ],
)
def test_a_failing_device_is_a_typed_error(
    raised: Exception, expected: type[Exception], triton_backend: MakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise raised

    monkeypatch.setattr(bucket_module.Bucket, "run", fail)
    with pytest.raises(expected):
        triton_backend(random_policy()).sample_and_score(batch_of())


def test_create_backend_makes_it_by_name() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backend = create_backend(random_policy(), "triton", device, "fp32")
    assert backend.engine.startswith("triton/fp32/")


def test_the_interpreter_is_not_for_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.gpu.backend.INTERPRETED", False)
    with pytest.raises(BackendUnavailable, match="needs a CUDA device"):
        TritonBackend(random_policy(), "cpu")
