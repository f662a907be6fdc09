"""Comparison of a result with the float64 reference's."""

from __future__ import annotations

import copy

import numpy as np
import torch

from kernels.backend import SampleBatch, SampleResult
from kernels.reference import ReferenceBackend
from policy import Policy


def reference(policy: Policy, batch: SampleBatch) -> SampleResult:
    """The float64 reference's result, computed by a copy of `policy`."""
    return ReferenceBackend(copy.deepcopy(policy), dtype=torch.float64).sample_and_score(batch)


def assert_agrees(
    batch: SampleBatch, found: SampleResult, expected: SampleResult, actions: float, values: float
) -> None:
    """Assert that `found` differs from `expected` by at most `actions` and `values` (absolute errors).

    Another candidate may win only if its value is within the error of the best.
    """
    assert found.candidates is not None
    assert found.candidate_q is not None
    assert expected.candidates is not None
    assert expected.candidate_q is not None
    np.testing.assert_array_equal(found.nonfinite, expected.nonfinite)
    for r in range(len(found.q)):
        np.testing.assert_allclose(found.candidates[r], expected.candidates[r], rtol=0, atol=actions)
        np.testing.assert_allclose(found.candidate_q[r], expected.candidate_q[r], rtol=0, atol=values)
        n = len(expected.candidate_q[r])
        np.testing.assert_allclose(found.q_first[r], expected.q_first[r], rtol=0, atol=values)
        np.testing.assert_allclose(found.q_sum[r], expected.q_sum[r], rtol=1e-6, atol=n * values)
        size = np.abs(expected.candidate_q[r]).max()
        np.testing.assert_allclose(found.q_sumsq[r], expected.q_sumsq[r], rtol=1e-6, atol=2.1 * n * size * values)
        # The winner is the first of the highest by found values, and within tolerance of the highest by expected ones.
        place = found.index[r] - batch.first_candidate[r]
        assert place == np.argmax(found.candidate_q[r])
        if found.index[r] != expected.index[r]:
            assert expected.candidate_q[r].max() - expected.candidate_q[r][place] <= 2 * values
        np.testing.assert_array_equal(found.action[r], found.candidates[r][place])
        np.testing.assert_array_equal(found.q[r], found.candidate_q[r][place])
        if found.index[r] == expected.index[r]:
            np.testing.assert_allclose(found.q_std[r], expected.q_std[r], rtol=0, atol=values)
