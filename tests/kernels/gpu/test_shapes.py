"""The kernel over odd shapes, and the shipped cube-single policy on observations of its own episodes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kernels.backend import Backend, SampleBatch, SampleResult
from kernels.gpu.configuration import TILES
from kernels.reference import ReferenceBackend
from policy import load_policy
from tests.kernels.gpu.compare import assert_agrees, reference
from tests.kernels.gpu.conftest import MakeTriton
from tests.kernels.gpu.test_backend import assert_alone_is_packed, assert_no_worse_than_torch_bf16, errors
from tests.policies import random_policy

ROOT = Path(__file__).parent.parent.parent.parent

# hidden widths of actor and critic, observation, action, members, most rows of the batch
SHAPES = [
    ((32,), (48, 32), 1, 1, 1, 400),
    ((64, 64, 64), (33,), 70, 22, 5, 300),
    ((96, 80), (64, 64, 64), 29, 5, 2, 300),
    ((128, 128), (130, 128), 37, 16, 2, 200),
    ((200, 100, 50), (256, 256), 17, 17, 5, 80),
    ((256, 256, 256), (256, 256, 256), 28, 5, 2, 80),
    ((512, 512), (384, 512), 69, 21, 1, 40),
    ((512, 512, 512, 512), (512, 512, 512, 512), 28, 5, 2, 20),
]


def case(number: int) -> tuple[Any, SampleBatch]:
    """A policy of SHAPES[number], its other properties and a ragged batch drawn from the number."""
    actor, critic, obs_dim, action_dim, members, most_rows = SHAPES[number]
    rng = np.random.default_rng(number)
    policy = random_policy(
        number,
        actor_hidden=actor,
        critic_hidden=critic,
        obs_dim=obs_dim,
        action_dim=action_dim,
        ensemble_size=members,
        q_agg="mean" if number % 2 else "min",
        critic_conditioning="none" if number % 3 == 1 else "steps",
        critic_layer_norm=number % 4 != 2,
        normaliser="standardise" if number % 5 == 3 else "identity",
        max_backprop_steps=[1, 4, 8][number % 3],
    )
    candidates: list[int] = []
    while len(candidates) < 1 + number % 9 or sum(candidates) < most_rows // 2:
        candidates.append(int(rng.integers(1, min(131, most_rows))))
        if sum(candidates) > most_rows:
            candidates[-1] -= sum(candidates) - most_rows
            if candidates[-1] < 1:
                candidates.pop()
            break
    requests = len(candidates)
    batch = SampleBatch.of(
        rng.standard_normal((requests, obs_dim)).astype(np.float32),
        candidates,
        rng.integers(1, 9, requests).tolist(),
        rng.integers(0, 2**64, requests, dtype=np.uint64),
        rng.choice([0.0, 1.0], requests, p=[0.2, 0.8]).tolist(),
        return_candidates=True,
    )
    return policy, batch


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_fp32_of_any_shape(number: int, launches: list[tuple[int, ...]], triton_backend: MakeTriton) -> None:
    policy, batch = case(number)
    found = triton_backend(policy, precision="fp32").sample_and_score(batch)
    assert len(launches) == 1
    assert_agrees(batch, found, reference(policy, batch), actions=1e-5, values=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "tile"),
    [(number, tile) for number in range(len(SHAPES)) for tile in ("16x256", "64x128")]
    + [(1, "128x128"), (3, "128x128")],
)
def test_bf16_of_any_shape(
    number: int,
    tile: str,
    launches: list[tuple[int, ...]],
    triton_backend: MakeTriton,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kernels.gpu.backend.choose_tile", lambda *arguments: TILES[tile])
    policy, batch = case(number)
    backend = triton_backend(policy)
    found = backend.sample_and_score(batch)
    assert len(launches) == 1
    assert_no_worse_than_torch_bf16(policy, batch, found)
    smallest = int(np.argmin(batch.num_candidates))
    assert_alone_is_packed(backend, batch, found, smallest)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 2])
def test_split_of_any_shape(number: int, triton_backend: MakeTriton) -> None:
    policy, batch = case(number)
    few = SampleBatch.of(
        batch.observation,
        np.minimum(batch.num_candidates, 9),
        np.minimum(batch.num_steps, 3),
        batch.seed,
        return_candidates=True,
    )
    assert_no_worse_than_torch_bf16(policy, few, triton_backend(policy, split=True).sample_and_score(few))


class _Recorder:
    """A backend that keeps what it is asked."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.engine = inner.engine
        self.observations: list[np.ndarray] = []

    def sample_and_score(self, batch: SampleBatch) -> SampleResult:
        self.observations.append(batch.observation)
        return self._inner.sample_and_score(batch)


@pytest.mark.slow
def test_the_shipped_policy_on_its_own_episodes(triton_backend: MakeTriton) -> None:
    """256 observations of cube-single's episodes 800,000 on, at its default budget: the reference's actions."""
    from training.episodes import Job
    from training.evaluation import EpisodeRunner

    policy = load_policy(ROOT / "deploy" / "policies" / "cube-single.safetensors")
    budget = policy.spec.default_budget
    recorder = _Recorder(ReferenceBackend(copy.deepcopy(policy)))
    roller = EpisodeRunner(recorder, policy.spec, policy.spec.provenance.environment, lanes=2)
    jobs = [Job(800_000 + episode, budget.num_candidates, budget.num_steps) for episode in range(8)]
    for _ in roller.run(jobs):
        if sum(map(len, recorder.observations)) >= 256:
            break
    observation = np.concatenate(recorder.observations)[:256]
    assert len(observation) == 256
    batch = SampleBatch.of(observation, budget.num_candidates, budget.num_steps, range(256), return_candidates=True)
    expected = reference(policy, batch)

    exact = triton_backend(policy, precision="fp32").sample_and_score(batch)
    np.testing.assert_array_equal(exact.index, expected.index)
    np.testing.assert_allclose(exact.action, expected.action, rtol=0, atol=1e-5)
    np.testing.assert_allclose(exact.q, expected.q, rtol=1e-6, atol=1e-5)

    found = triton_backend(policy).sample_and_score(batch)
    with torch.autocast("cpu", torch.bfloat16):
        torchs = ReferenceBackend(copy.deepcopy(policy)).sample_and_score(batch)
    for ours, theirs in zip(errors(found, expected), errors(torchs, expected), strict=True):
        assert ours <= theirs
    same = found.index == expected.index
    assert same.mean() > 0.95
    np.testing.assert_allclose(found.action[same], expected.action[same], rtol=0, atol=3e-2)
