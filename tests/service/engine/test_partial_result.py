"""A request cut anywhere gives what it gives in one piece: native engine to the bit, reference within rounding."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.backend import Backend, SampleBatch, SampleResult
from kernels.choice import create_backend
from service.engine.partial_result import PartialResult, batch_of
from service.sample import RequestPart, SampleRequest
from tests.policies import random_policy

SPEC = random_policy().spec
EXACT = ("action", "q", "q_std", "index", "q_first", "nonfinite")
patient = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module", params=["cpu", "reference"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return create_backend(random_policy(), request.param, "cpu", "auto", 1)


def make_request(observations: int, n: int, m: int = 3, **changes: Any) -> SampleRequest:
    rng = np.random.default_rng(observations * 1000 + n)
    rows = rng.normal(size=(observations, 11)).astype(np.float32)
    seeds = rng.integers(0, 2**63, observations).astype(np.uint64)
    return SampleRequest(rows, n, m, seeds, **{"return_candidates": True, **changes})


def in_one(backend: Backend, request: SampleRequest) -> SampleResult:
    """Asked without the code under test."""
    return backend.sample_and_score(
        SampleBatch.of(
            request.observation,
            request.num_candidates,
            request.num_steps,
            request.seeds,
            request.temperature,
            return_candidates=True,
        )
    )


def in_parts(
    backend: Backend, request: SampleRequest, cuts: list[int], beside: SampleRequest | None = None
) -> SampleResult:
    best = PartialResult(request, 3)
    edges = [0, *sorted(set(cuts)), request.rows]
    for start, stop in itertools.pairwise(edges):
        parts = [RequestPart(request, start, stop, best)]
        if beside is not None:
            parts.insert(0, RequestPart(beside, 0, beside.rows))
        batch, observations = batch_of(SPEC, parts)
        assert int(batch.num_candidates.sum()) == sum(part.stop - part.start for part in parts)
        result = backend.sample_and_score(batch)
        first = len(batch) - len(observations[-1])
        best.add(parts[-1], observations[-1], result, slice(first, len(batch)))
    return best.result()


def same(found: SampleResult, expected: SampleResult, exact: bool) -> None:
    assert expected.candidate_q is not None
    alike = found.index == expected.index
    for row in np.flatnonzero(~alike):  # rounding decides between values that are next to equal
        assert not exact
        q = expected.candidate_q[row]
        assert q[found.index[row]] >= q.max() - 2e-5
    for name in EXACT:
        if exact or name == "nonfinite":
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
        else:
            ours, theirs = getattr(found, name)[alike], getattr(expected, name)[alike]
            np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=name)
    for name in ("q_sum", "q_sumsq"):  # of parts' sums that were rounded to float32
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-4, err_msg=name)
    for name in ("candidates", "candidate_q"):
        pairs = zip(getattr(found, name), getattr(expected, name), strict=True)
        for one, other in pairs:
            assert one.shape == other.shape
            np.testing.assert_allclose(one, other, atol=0 if exact else 1e-5)


@patient
@given(st.data())
def test_cut_anywhere_is_as_in_one_piece(backend: Backend, data: st.DataObject) -> None:
    request = make_request(data.draw(st.integers(1, 6)), data.draw(st.integers(1, 40)))
    cuts = data.draw(st.lists(st.integers(1, max(1, request.rows - 1)), max_size=5)) if request.rows > 1 else []
    beside = make_request(2, 5, 2) if data.draw(st.booleans()) else None
    found = in_parts(backend, request, cuts, beside)
    same(found, in_one(backend, request), exact=backend.engine.startswith("cpu"))


def test_large_request_in_large_parts(backend: Backend) -> None:
    request = make_request(1, 4096, 1)
    same(in_parts(backend, request, [1000, 1001, 3000]), in_one(backend, request), backend.engine.startswith("cpu"))


def test_ties_go_to_the_lowest_index_over_parts() -> None:
    """Without noise all candidates are the same, to the bit with the native engine."""
    backend = create_backend(random_policy(), "cpu", "cpu", "auto", 1)
    request = make_request(3, 8, temperature=0.0)
    assert in_parts(backend, request, [7, 12]).index.tolist() == [0, 0, 0]


def test_a_nonfinite_candidate_of_any_part_counts() -> None:
    class Spoilt:
        engine = "spoilt"

        def __init__(self) -> None:
            self.inner = create_backend(random_policy(), "reference", "cpu")

        def sample_and_score(self, batch: SampleBatch) -> SampleResult:
            result = self.inner.sample_and_score(batch)
            hit = (batch.first_candidate <= 2) & (batch.first_candidate + batch.num_candidates > 2) & (batch.seed == 5)
            result.nonfinite[:] = hit
            return result

    request = make_request(2, 9)
    request.seeds[:] = [4, 5]
    for cuts in ([3], [2, 9], [5, 6, 17]):
        assert in_parts(Spoilt(), request, cuts).nonfinite.tolist() == [False, True]


def test_a_part_that_is_added_again_changes_nothing(backend: Backend) -> None:
    request = make_request(2, 6)
    best = PartialResult(request, 3)
    for part in (RequestPart(request, 0, 7), RequestPart(request, 7, 12)):
        batch, (which,) = batch_of(SPEC, [part])
        result = backend.sample_and_score(batch)
        for _ in range(2):
            best.add(part, which, result, slice(0, len(batch)))
    same(best.result(), in_one(backend, request), exact=backend.engine.startswith("cpu"))
