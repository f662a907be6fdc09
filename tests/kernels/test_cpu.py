"""The native engine, on every instruction set: accuracy against float64, and bits that depend on a request alone."""

from __future__ import annotations

import os
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import choice as backends
from kernels import cpu
from kernels.backend import BackendUnavailable, MadeInSteps, SampleBatch, SampleResult
from kernels.choice import create_backend, engine_choice
from kernels.cpu import CpuBackend
from kernels.philox import philox4x32, standard_normals
from kernels.reference import ReferenceBackend
from policy import Policy
from tests.policies import random_policy

ISAS = cpu.supported_isas()
LIMITS = {"fp32": 1e-5, "bf16": 2e-2}
"""The largest relative error against float64, in norm: of a batch's candidates, and of their values. bf16 values may
have the error of torch's autocast on the same network, if that is larger."""


def widths(least: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(least, 70), min_size=1, max_size=6).map(tuple)


# LayerNorm over fewer units may divide by a deviation near zero, which amplifies any rounding error.
LEAST_NORMED = 17
specs = st.fixed_dictionaries(
    {
        "obs_dim": st.integers(1, 200),
        "action_dim": st.integers(1, 40),
        "ensemble_size": st.integers(1, 10),
        "q_agg": st.sampled_from(["mean", "min"]),
        "critic_conditioning": st.sampled_from(["steps", "none"]),
        "critic_layer_norm": st.booleans(),
        "normaliser": st.sampled_from(["identity", "standardise"]),
        "max_backprop_steps": st.sampled_from([1, 4, 8]),
    }
)
requests = st.lists(
    st.tuples(
        st.one_of(st.integers(1, 40), st.integers(41, 1000)),
        st.integers(1, 8),
        st.integers(0, 2**64 - 1),
        st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        st.integers(0, 1000),
    ),
    min_size=1,
    max_size=9,
)


def observations(count: int, dims: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dims)).astype(np.float32)


def make_batch(asked: list[tuple[int, int, int, float, int]], dims: int) -> SampleBatch:
    n, m, seeds, temperature, first = zip(*asked, strict=True)
    return SampleBatch.of(observations(len(asked), dims), n, m, seeds, temperature, first, return_candidates=True)


def compare(found: SampleResult, expected: SampleResult, limit: float, value_limit: float = 0.0) -> None:
    """Assert a relative error of at most `limit` over all rows (for values, at most max(limit, value_limit)), and that
    each request's results agree with its rows."""
    assert found.candidates is not None
    assert found.candidate_q is not None
    assert expected.candidates is not None
    assert expected.candidate_q is not None
    assert not found.nonfinite.any()
    assert relative_error(found.candidates, expected.candidates) <= limit
    assert relative_error(found.candidate_q, expected.candidate_q) <= max(limit, value_limit)
    for r, (q, ours) in enumerate(zip(expected.candidate_q, found.candidate_q, strict=True)):
        chosen = int(np.argmax(ours))
        assert q[chosen] >= q.max() - 2 * np.abs(ours - q).max()
        np.testing.assert_array_equal(found.action[r], found.candidates[r][chosen])
        assert found.q[r] == ours.max()
        assert found.q_first[r] == ours[0]
        np.testing.assert_allclose(found.q_sum[r], ours.sum(dtype=np.float64), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.q_sumsq[r], (ours.astype(np.float64) ** 2).sum(), rtol=1e-5, atol=1e-5)


def relative_error(found: list[Any], expected: list[Any]) -> float:
    """|found - expected| / |expected| over all requests' rows, in norm; |expected| is at least 1 per number."""
    ours, theirs = np.concatenate(found).astype(np.float64), np.concatenate(expected)
    return float(np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), np.sqrt(theirs.size)))


@settings(max_examples=25, deadline=None)
@given(changes=specs, asked=requests, seed=st.integers(0, 100), threads=st.sampled_from([1, 2, 3]), sizes=st.data())
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_odd_sizes_agree_with_float64(
    precision: Any,
    changes: dict[str, Any],
    asked: list[tuple[int, int, int, float, int]],
    seed: int,
    threads: int,
    sizes: st.DataObject,
) -> None:
    least = LEAST_NORMED if changes["critic_layer_norm"] else 1
    changes = changes | {"actor_hidden": sizes.draw(widths(1)), "critic_hidden": sizes.draw(widths(least))}
    batch = make_batch([*asked, (60, 4, seed, 1.0, 0)], changes["obs_dim"])
    expected = ReferenceBackend(random_policy(seed, **changes), dtype=torch.float64).sample_and_score(batch)
    found = CpuBackend(random_policy(seed, **changes), precision, threads).sample_and_score(batch)
    autocast = 0.0
    if precision == "bf16":  # six narrow layers with LayerNorm can have an error above 2e-2, in torch as well
        with torch.autocast("cpu", torch.bfloat16):
            theirs = ReferenceBackend(random_policy(seed, **changes)).sample_and_score(batch)
        autocast = relative_error(theirs.candidate_q, expected.candidate_q)  # type: ignore[arg-type]
    compare(found, expected, LIMITS[precision], autocast)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set(isa: str, precision: Any) -> None:
    """Networks of several panels and odd widths; q_std is compared too."""

    def policy() -> Policy:
        return random_policy(actor_hidden=(130, 64, 97), critic_hidden=(97, 130), obs_dim=17, action_dim=5)

    batch = make_batch([(1, 8, 1, 1.0, 0), (7, 3, 2, 1.0, 5), (64, 4, 3, 0.5, 0), (130, 1, 2**64 - 1, 1.0, 7)], 17)
    expected = ReferenceBackend(policy(), dtype=torch.float64).sample_and_score(batch)
    backend = CpuBackend(policy(), precision, threads=2, isa=isa)
    assert backend.engine == f"cpu/{precision}/{isa}"
    found = backend.sample_and_score(batch)
    compare(found, expected, LIMITS[precision])
    if precision == "fp32":
        np.testing.assert_array_equal(found.index, expected.index)
        np.testing.assert_allclose(found.q_std, expected.q_std, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(asked=requests, shuffle=st.randoms(use_true_random=False))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("isa", ISAS)
def test_bits_do_not_depend_on_the_batch_the_threads_or_the_position(
    isa: str, precision: Any, asked: list[tuple[int, int, int, float, int]], shuffle: Any
) -> None:
    changes: dict[str, Any] = {"actor_hidden": (70, 33), "critic_hidden": (70, 33), "action_dim": 5}
    observation = observations(len(asked), 11)
    alone = CpuBackend(random_policy(**changes), precision, 1, isa)
    expected = [
        alone.sample_and_score(SampleBatch.of(observation[r : r + 1], *request, return_candidates=True))
        for r, request in enumerate(asked)
    ]
    order = list(range(len(asked)))
    shuffle.shuffle(order)
    n, m, seeds, temperature, first = zip(*(asked[r] for r in order), strict=True)
    batch = SampleBatch.of(observation[order], n, m, seeds, temperature, first, return_candidates=True)
    for threads in (1, 2, 3):
        found = CpuBackend(random_policy(**changes), precision, threads, isa).sample_and_score(batch)
        assert found.candidates is not None
        assert found.candidate_q is not None
        for place, r in enumerate(order):
            assert found.candidates[place].tobytes() == expected[r].candidates[0].tobytes()  # type: ignore[index]
            assert found.candidate_q[place].tobytes() == expected[r].candidate_q[0].tobytes()  # type: ignore[index]
            for name in ("action", "q", "q_std", "index", "q_first", "q_sum", "q_sumsq"):
                assert getattr(found, name)[place].tobytes() == getattr(expected[r], name)[0].tobytes(), name


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_helpers_without_a_core_of_their_own_change_no_bits() -> None:
    """On one core, helpers begin tiles that the caller then finishes first; they run on after it has returned."""
    policy = random_policy(actor_hidden=(256, 256), critic_hidden=(256, 256))
    batch = SampleBatch.of(observations(9, 11), [200, 7, 30, 1, 90, 3, 64, 8, 40], 5, range(9), return_candidates=True)
    expected = CpuBackend(policy, "auto", 1).sample_and_score(batch)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        crowded = CpuBackend(policy, "auto", 9)
        found = [crowded.sample_and_score(batch) for _ in range(200)]
    finally:
        os.sched_setaffinity(0, allowed)
    for result in found:
        for name in ("action", "q", "q_std", "index"):
            assert getattr(result, name).tobytes() == getattr(expected, name).tobytes(), name


@pytest.mark.parametrize("called", [0, 2, None])
def test_a_backend_made_in_steps_gives_the_same_bits(called: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether none, some or all of the steps have been called before the first batch; a layer a step."""
    monkeypatch.setattr(cpu, "STEP_SECONDS", 1e-9)
    policy = random_policy(actor_hidden=(64, 64, 32), critic_hidden=(48, 64), ensemble_size=3)
    batch = SampleBatch.of(observations(5, 11), [40, 7, 1, 9, 3], 5, range(5), return_candidates=True)
    expected = CpuBackend(policy, "auto", 2).sample_and_score(batch)
    backend = create_backend(policy, "cpu", "cpu", "auto", 2, in_steps=True)
    assert isinstance(backend, MadeInSteps)
    steps = 0
    for step in islice(backend.making_steps(), called):
        step()
        steps += 1
    assert steps == (3 + 3 * 2 if called is None else called)  # an actor's layers after its first, and the critics'
    found = backend.sample_and_score(batch)
    for name in ("action", "q", "q_std", "index", "q_first", "q_sum", "q_sumsq"):
        assert getattr(found, name).tobytes() == getattr(expected, name).tobytes(), name


def test_a_backend_made_at_once_keeps_its_weights_as_they_were() -> None:
    policy = random_policy()
    batch = SampleBatch.of(observations(2, 11), 8, 3, range(2))
    expected = CpuBackend(policy).sample_and_score(batch)
    backend = CpuBackend(policy)
    policy.actor.get_parameter("layers.1.weight").data.zero_()
    np.testing.assert_array_equal(backend.sample_and_score(batch).action, expected.action)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads")
def test_threads_of_a_dropped_backend_end() -> None:
    """Whoever drops it does not wait for them, so the test does."""
    policy = random_policy()
    batch = SampleBatch.of(observations(1, 11), 64, 8, 0)
    CpuBackend(policy, threads=1).sample_and_score(batch)
    before = {task.name for task in Path("/proc/self/task").iterdir()}
    for _ in range(5):
        CpuBackend(policy, threads=4).sample_and_score(batch)
    until = time.monotonic() + 60
    while {task.name for task in Path("/proc/self/task").iterdir()} - before:
        assert time.monotonic() < until, "helpers are still there"
        os.sched_yield()


def test_a_part_of_a_request_has_its_candidates() -> None:
    backend = CpuBackend(random_policy(), threads=2)
    observation = np.ones((1, 11), np.float32)
    whole = backend.sample_and_score(SampleBatch.of(observation, 300, 3, 5, return_candidates=True))
    part = backend.sample_and_score(SampleBatch.of(observation, 4, 3, 5, first_candidate=296, return_candidates=True))
    assert whole.candidates is not None
    assert part.candidates is not None
    np.testing.assert_array_equal(part.candidates[0], whole.candidates[0][296:])
    assert 296 <= part.index[0] < 300


def test_ties_go_to_the_lowest_index() -> None:
    batch = SampleBatch.of(np.ones((2, 11), np.float32), 200, 2, 3, temperature=0.0, first_candidate=9)
    assert list(CpuBackend(random_policy(), threads=2).sample_and_score(batch).index) == [9, 9]


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_nonfinite_request_fails_alone(poison: float) -> None:
    observation = np.ones((3, 11), np.float32)
    observation[1] = poison
    result = CpuBackend(random_policy(), threads=2).sample_and_score(
        SampleBatch.of(observation, [4, 5, 6], [3, 1, 2], 0)
    )
    assert list(result.nonfinite) == [False, True, False]
    assert np.isfinite(result.action[[0, 2]]).all()


@pytest.mark.parametrize("network", ["actor", "critic"])
def test_nan_weights_mark_all_requests_nonfinite(network: str) -> None:
    policy = random_policy()
    getattr(policy, network).layers[1].bias.data.view(-1)[3] = float("nan")
    result = CpuBackend(policy).sample_and_score(SampleBatch.of(np.ones((2, 11), np.float32), 3, 2, 0))
    assert result.nonfinite.all()


@given(seed=st.integers(0, 2**64 - 1), candidate=st.integers(0, 2**31 - 1), dims=st.integers(1, 40))
def test_noise_equals_kernels_philox(seed: int, candidate: int, dims: int) -> None:
    native = cpu._native()
    key = (torch.tensor([seed & 0xFFFFFFFF]), torch.tensor([seed >> 32]))
    counter = [torch.tensor([word]) for word in (candidate, (dims - 1) // 4, 0, 0)]
    expected = [int(word) for word in philox4x32(tuple(counter), key)]
    assert native.philox4x32(seed, candidate, (dims - 1) // 4) == expected
    z = np.empty(dims, np.float32)
    native.standard_normals(seed, candidate, z)
    signed = torch.tensor([seed - 2**64 if seed >= 2**63 else seed])
    np.testing.assert_allclose(z, standard_normals(signed, torch.tensor([candidate]), dims)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"), [("num_candidates", 0), ("num_steps", 0), ("num_steps", 9), ("observation", None)]
)
def test_array_sizes_and_budgets_are_checked(field: str, value: int | None) -> None:
    arguments: dict[str, Any] = {"num_candidates": 2, "num_steps": 2}
    width = 10 if field == "observation" else 11
    if value is not None:
        arguments[field] = value
    batch = SampleBatch.of(np.ones((1, width), np.float32), seed=0, **arguments)
    backend = CpuBackend(random_policy(normaliser="identity"))
    with pytest.raises(ValueError, match=field):
        backend.sample_and_score(batch)


def test_a_missing_instruction_set_is_an_error() -> None:
    with pytest.raises(BackendUnavailable, match="this machine lacks avx1024"):
        CpuBackend(random_policy(), isa="avx1024")


def test_create_backend_passes_threads_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert create_backend(random_policy()).engine == f"cpu/{cpu.default_precision(ISAS[0])}/{ISAS[0]}"
    assert create_backend(random_policy(), "cpu", precision="fp32", threads=2).engine == f"cpu/fp32/{ISAS[0]}"


def test_without_the_extension(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def missing() -> None:
        raise BackendUnavailable("the native engine was not built")

    monkeypatch.setattr(cpu, "_native", missing)
    with pytest.raises(BackendUnavailable, match="not built"):
        create_backend(random_policy(), "cpu")
    with caplog.at_level("WARNING", logger=backends.__name__):
        assert create_backend(random_policy()).engine == "reference/fp32/cpu"
    assert "not built" in caplog.text


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ("cpu/bf16/avx512_bf16", ("cpu", "bf16")),
        ("reference/fp32/cpu", ("reference", "fp32")),
        ("reference/fp64/cpu", ("reference", "auto")),
        ("abacus", ("auto", "auto")),
    ],
)
def test_engine_choice_reads_an_engine_name(engine: str, expected: tuple[str, str]) -> None:
    assert engine_choice(engine) == expected
