"""Compare a device's results with the reference's, once before serving."""

from __future__ import annotations

import copy
from typing import Protocol

import numpy as np

from kernels.backend import BackendMismatch, Float32, SampleBatch, SampleResult
from kernels.reference import ReferenceBackend
from policy import Policy


class _Samples(Protocol):
    engine: str

    def sample_and_score(self, batch: SampleBatch) -> SampleResult: ...


def check_batch(policy: Policy) -> SampleBatch:
    """A fixed ragged batch: every M, requests that span tiles, observations around the policy's mean."""
    rng = np.random.default_rng(2505)
    steps = [1 + i % policy.spec.denoise_timesteps for i in range(10)]
    candidates = [1, 130, 3, 17, 64, 5, 2, 33, 1, 80]
    mean, std = (t.detach().cpu().float().numpy() for t in (policy.observation_mean, policy.observation_std))
    observation = mean + std * rng.standard_normal((10, policy.spec.input_dim))
    return SampleBatch.of(observation.astype(np.float32), candidates, steps, range(10), return_candidates=True)


def check_against_reference(backend: _Samples, policy: Policy, tolerance: float) -> None:
    """Compare every candidate of `check_batch` and its value with the float32 reference on the CPU.

    Args:
        tolerance: the largest mean absolute error of a request's actions, and of its values, the latter relative to
            the largest absolute value (at least 1).

    Raises:
        BackendMismatch: a request differs by more, is not finite, or its action is not the best of its candidates.
    """
    batch = check_batch(policy)
    expected = ReferenceBackend(copy.deepcopy(policy), "cpu").sample_and_score(batch)
    found = backend.sample_and_score(batch)
    for request in range(len(batch)):
        actions, values = _candidates(found, request)
        true_actions, true_values = _candidates(expected, request)
        action = np.abs(actions - true_actions).mean()
        value = np.abs(values - true_values).mean() / max(1.0, float(np.abs(true_values).max()))
        chosen = np.abs(found.action[request] - actions[found.index[request]]).max()
        best = values.max() == found.q[request]
        if not (action <= tolerance and value <= tolerance and chosen == 0 and best) or found.nonfinite[request]:
            raise BackendMismatch(
                f"{backend.engine} differs from the reference: request {request} "
                f"(N = {batch.num_candidates[request]}, M = {batch.num_steps[request]}) by {action:.3g} in actions and "
                f"{value:.3g} in values; {tolerance:g} is allowed"
            )


def _candidates(result: SampleResult, request: int) -> tuple[Float32, Float32]:
    assert result.candidates is not None
    assert result.candidate_q is not None
    return result.candidates[request], result.candidate_q[request]
