"""The reference sampler against the released code's samples and against a naive float64 sampler (naive.py)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.backend import BackendUnavailable, SampleBatch
from kernels.choice import create_backend
from kernels.reference import ReferenceBackend, aggregate, euler_sample
from tests.kernels import naive
from tests.policies import random_policy
from training.release.parity import relative_error
from training.release.parity_file import ParityFile

CELLS = [(1, 1), (8, 1), (8, 2), (16, 4), (32, 8)]


@pytest.mark.parametrize(("n", "m"), CELLS)
def test_samples_of_the_released_code(release: ParityFile, n: int, m: int) -> None:
    actor, critic = release.actor(), release.critic()
    for row, observation in enumerate(release["sample/observations"]):
        repeated = observation.expand(n, -1)
        noise = release[f"sample/n{n}_m{m}/noise"][row]
        candidates = euler_sample(actor, actor.observation_share(repeated), noise, torch.full((n,), m), 8)
        assert relative_error(candidates, release[f"sample/n{n}_m{m}/candidates"][row]) < 1e-5
        q = critic(repeated, candidates, torch.full((n, 1), float(m)))
        assert relative_error(q, release[f"sample/n{n}_m{m}/q"][row]) < 1e-5
        chosen = candidates[aggregate(q, "mean").argmax()]
        assert relative_error(chosen, release[f"sample/n{n}_m{m}/action"][row]) < 1e-5


requests = st.lists(
    st.tuples(st.integers(1, 20), st.integers(1, 8), st.integers(0, 2**64 - 1), st.sampled_from([0.0, 0.5, 1.0, 2.0])),
    min_size=1,
    max_size=5,
)
specs = st.fixed_dictionaries(
    {
        "obs_dim": st.integers(1, 12),
        "action_dim": st.integers(1, 6),
        "action_horizon": st.sampled_from([1, 1, 4, 8, 16]),
        "actor_hidden": st.sampled_from([(8,), (16, 12), (7, 9, 5)]),
        "critic_hidden": st.sampled_from([(8,), (12, 16), (5, 9, 7)]),
        "ensemble_size": st.integers(1, 4),
        "q_agg": st.sampled_from(["mean", "min"]),
        "critic_conditioning": st.sampled_from(["steps", "none"]),
        "critic_layer_norm": st.booleans(),
        "normaliser": st.sampled_from(["identity", "standardise"]),
        "max_backprop_steps": st.sampled_from([1, 4, 8]),
    }
)


@settings(max_examples=40, deadline=None)
@given(changes=specs, asked=requests, seed=st.integers(0, 1000))
def test_a_ragged_batch_equals_the_definition_request_by_request(
    changes: dict[str, Any], asked: list[tuple[int, int, int, float]], seed: int
) -> None:
    policy = random_policy(seed, **changes)
    observation = np.random.default_rng(seed).standard_normal((len(asked), changes["obs_dim"])).astype(np.float32)
    n, m, seeds, temperature = zip(*asked, strict=True)
    batch = SampleBatch.of(observation, n, m, seeds, temperature, return_candidates=True)
    result = ReferenceBackend(policy, dtype=torch.float64).sample_and_score(batch)
    assert result.candidates is not None
    assert result.candidate_q is not None
    policy.float()
    for r in range(len(asked)):
        expected = naive.sample_and_score(policy, observation[r], n[r], m[r], seeds[r], temperature[r])
        np.testing.assert_allclose(result.candidates[r], expected.candidates, atol=1e-6)
        np.testing.assert_allclose(result.candidate_q[r], expected.q, atol=1e-5, rtol=1e-6)
        index = int(result.index[r])
        assert expected.q[index] >= expected.q.max() - 1e-9
        np.testing.assert_allclose(result.action[r], expected.candidates[index], atol=1e-6)
        np.testing.assert_allclose(result.q[r], expected.q[index], atol=1e-5, rtol=1e-6)
        np.testing.assert_allclose(result.q_std[r], expected.members[index].std(), atol=1e-5)
        np.testing.assert_allclose(result.q_first[r], expected.q[0], atol=1e-5, rtol=1e-6)
        np.testing.assert_allclose(result.q_sum[r], expected.q.sum(), atol=1e-4, rtol=1e-5)
        np.testing.assert_allclose(result.q_sumsq[r], (expected.q**2).sum(), atol=1e-4, rtol=1e-5)


def test_float32_stays_close_to_float64() -> None:
    policy = random_policy(actor_hidden=(64,) * 4, critic_hidden=(64,) * 4)
    observation = np.random.default_rng(0).standard_normal((9, 11)).astype(np.float32)
    batch = SampleBatch.of(observation, [1, 3, 8, 32, 5, 7, 2, 1, 9], [1, 2, 3, 4, 5, 6, 7, 8, 8], range(9))
    single = ReferenceBackend(policy).sample_and_score(batch)
    double = ReferenceBackend(policy, dtype=torch.float64).sample_and_score(batch)
    np.testing.assert_allclose(single.action, double.action, atol=1e-5)
    np.testing.assert_array_equal(single.index, double.index)


def test_candidates_do_not_depend_on_n_or_on_the_rest_of_the_batch() -> None:
    policy = random_policy()
    observation = np.random.default_rng(1).standard_normal((64, 11)).astype(np.float32)
    backend = ReferenceBackend(policy)
    crowd = backend.sample_and_score(SampleBatch.of(observation, 16, 4, range(64), return_candidates=True))
    alone = backend.sample_and_score(SampleBatch.of(observation[7:8], 5, 4, 7, return_candidates=True))
    assert crowd.candidates is not None
    assert alone.candidates is not None
    np.testing.assert_allclose(alone.candidates[0], crowd.candidates[7][:5], atol=1e-5)


def test_a_part_of_a_request_has_its_candidates() -> None:
    policy = random_policy()
    backend = ReferenceBackend(policy)
    observation = np.ones((1, 11), np.float32)
    whole = backend.sample_and_score(SampleBatch.of(observation, 12, 3, 5, return_candidates=True))
    part = backend.sample_and_score(SampleBatch.of(observation, 4, 3, 5, first_candidate=8, return_candidates=True))
    assert whole.candidates is not None
    assert part.candidates is not None
    np.testing.assert_allclose(part.candidates[0], whole.candidates[0][8:], atol=1e-6)
    assert 8 <= part.index[0] < 12


def test_ties_go_to_the_lowest_index() -> None:
    policy = random_policy()
    batch = SampleBatch.of(np.ones((2, 11), np.float32), 9, 2, 3, temperature=0.0)  # no noise: all candidates equal
    assert list(ReferenceBackend(policy).sample_and_score(batch).index) == [0, 0]


def test_a_nonfinite_request_fails_alone() -> None:
    policy = random_policy()
    observation = np.ones((3, 11), np.float32)
    observation[1] = np.nan
    result = ReferenceBackend(policy).sample_and_score(SampleBatch.of(observation, [4, 5, 6], [3, 1, 2], 0))
    assert list(result.nonfinite) == [False, True, False]
    assert np.isfinite(result.action[[0, 2]]).all()


def test_no_row_is_evaluated_for_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = random_policy()
    rows = {"actor": 0, "critic": 0}
    actor_forward, critic_forward = policy.actor.forward, policy.critic.forward

    def count_actor(*arguments: torch.Tensor) -> torch.Tensor:
        rows["actor"] += len(arguments[1])
        return actor_forward(*arguments)

    def count_critic(*arguments: torch.Tensor) -> torch.Tensor:
        rows["critic"] += len(arguments[1])
        return critic_forward(*arguments)

    monkeypatch.setattr(policy.actor, "forward", count_actor)
    monkeypatch.setattr(policy.critic, "forward", count_critic)
    n, m = [1, 7, 32, 2], [8, 1, 4, 3]
    ReferenceBackend(policy).sample_and_score(SampleBatch.of(np.ones((4, 11), np.float32), n, m, 0))
    assert rows == {"actor": sum(a * b for a, b in zip(n, m, strict=True)), "critic": sum(n)}


def test_action_to_environment_scales_to_the_limits() -> None:
    spec = replace(random_policy().spec, action_low=(0.0, -2.0, -1.0), action_high=(1.0, 2.0, 1.0))
    action = np.array([[-1.0, 1.0, 0.25]], np.float32)
    np.testing.assert_allclose(spec.action_to_environment(action), [[0.0, 2.0, 0.25]])
    np.testing.assert_allclose(spec.action_to_environment(torch.from_numpy(action)).numpy(), [[0.0, 2.0, 0.25]])


@pytest.mark.parametrize("device", ["cuda:99", "teapot"])
def test_a_missing_device_is_an_error(device: str) -> None:
    with pytest.raises(BackendUnavailable, match=device):
        create_backend(random_policy(), device=device)


def test_auto_logs_the_engine_it_chose(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        backend = create_backend(random_policy())
    assert backend.engine in caplog.text
