"""Requests that are computed part by part: their rows in a batch, and the best candidates so far.

Candidate i is the same whatever N is, so the best over the parts is the best of all at once. It is equal to the bit
where the backend's bits do not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.backend import SampleBatch, SampleResult
from kernels.commitment import network_input
from policy import PolicySpec
from service.sample import RequestPart, SampleRequest


def batch_of(spec: PolicySpec, parts: Sequence[RequestPart]) -> tuple[SampleBatch, list[NDArray[np.intp]]]:
    """The parts as one batch, and for each part the observations of its request that have a row in the batch."""
    observation, seed, present = [], [], []
    columns = _Columns([], [], [], [])
    for part in parts:
        request, start, stop, _ = part
        observations = len(request.observation)
        committed = None if request.commitment is None else request.commitment.actions
        inputs = network_input(spec, request.observation, committed)
        if start == 0 and stop == request.rows:  # most are whole: 1 us each, where the general case takes 15
            indices = _range(observations)
            observation.append(inputs)
            seed.append(request.seeds)
            columns.add(request, [request.num_candidates] * observations, [0] * observations)
        else:
            indices, first, counts = _candidates_of(part)
            observation.append(inputs[indices])
            seed.append(request.seeds[indices])
            columns.add(request, counts.tolist(), first.tolist())
        present.append(indices)
    batch = SampleBatch(
        observation=np.concatenate(observation),
        num_candidates=np.array(columns.num_candidates, np.int32),
        num_steps=np.array(columns.num_steps, np.int32),
        seed=np.concatenate(seed),
        temperature=np.array(columns.temperature, np.float32),
        first_candidate=np.array(columns.first_candidate, np.int32),
        return_candidates=any(part.request.needs_candidates for part in parts),
    )
    return batch, present


class _Columns(NamedTuple):
    """The scalars of a batch, one a row of it."""

    num_candidates: list[int]
    num_steps: list[int]
    temperature: list[float]
    first_candidate: list[int]

    def add(self, request: SampleRequest, counts: list[int], first: list[int]) -> None:
        self.num_candidates.extend(counts)
        self.num_steps.extend([request.num_steps] * len(counts))
        self.temperature.extend([request.temperature] * len(counts))
        self.first_candidate.extend(first)


@lru_cache(maxsize=64)
def _range(count: int) -> NDArray[np.intp]:
    """0 to count - 1, read-only since it is shared."""
    indices = np.arange(count)
    indices.flags.writeable = False
    return indices


def _candidates_of(part: RequestPart) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Which observations have candidates in the part, the first candidate of each, and how many there are.

    `SampleRequest` says how rows are numbered.
    """
    request, start, stop, _ = part
    observations = np.arange(len(request.observation))
    first = -((observations - start) // len(observations))
    counts = -((observations - stop) // len(observations)) - first
    present = np.flatnonzero(counts)
    return present, first[present], counts[present]


class PartialResult:
    """The best of the candidates of a request that have been computed so far.

    Args:
        request: as its first part has it. A later part may have fewer candidates, but not fewer than were computed.
        chunk_dim: of its policy; here a chunk of actions is still a flat row, as backends return it.
    """

    def __init__(self, request: SampleRequest, chunk_dim: int) -> None:
        observations, n = len(request.observation), request.num_candidates
        self._action = np.zeros((observations, chunk_dim), np.float32)
        self._q = np.full(observations, -np.inf, np.float32)
        self._q_std = np.zeros(observations, np.float32)
        self._index = np.zeros(observations, np.int32)
        self._q_first = np.zeros(observations, np.float32)
        self._q_sum = np.zeros(observations)
        self._q_sumsq = np.zeros(observations)
        self._nonfinite = np.zeros(observations, np.bool_)
        self._stop = 0
        self._candidates: NDArray[np.float32] | None = None
        if request.needs_candidates:
            self._candidates = np.empty((observations, n, chunk_dim), np.float32)
            self._candidate_q, self._candidate_q_std = (np.empty((observations, n), np.float32) for _ in range(2))

    def add(self, part: RequestPart, present: NDArray[np.intp], result: SampleResult, rows: slice) -> None:
        """Take in a part. Its observations `present` are `rows` of `result`. A second time changes nothing."""
        if part.stop <= self._stop:
            return
        self._stop = part.stop
        q = result.q[rows]
        better = q > self._q[present]  # not >=: of equal candidates the lowest index wins, and it came first
        winners, source = present[better], np.arange(rows.start, rows.stop)[better]
        self._action[winners] = result.action[source]
        self._q[winners] = result.q[source]
        self._q_std[winners] = result.q_std[source]
        self._index[winners] = result.index[source]
        fresh = present >= part.start  # candidate 0 of these observations is in the part
        self._q_first[present[fresh]] = result.q_first[rows][fresh]
        self._q_sum[present] += result.q_sum[rows]
        self._q_sumsq[present] += result.q_sumsq[rows]
        self._nonfinite[present] |= result.nonfinite[rows]
        if self._candidates is not None:
            assert result.candidates is not None
            assert result.candidate_q is not None
            assert result.candidate_q_std is not None
            for observation, row in zip(present.tolist(), range(rows.start, rows.stop), strict=True):
                first = -((observation - part.start) // len(self._q))
                here = slice(first, first + len(result.candidates[row]))
                self._candidates[observation, here] = result.candidates[row]
                self._candidate_q[observation, here] = result.candidate_q[row]
                self._candidate_q_std[observation, here] = result.candidate_q_std[row]

    def result(self) -> SampleResult:
        """The result as if all candidates had been computed at once; after the last part."""
        n = self._stop // len(self._q)
        candidates = candidate_q = candidate_q_std = None
        if self._candidates is not None:
            candidates = list(self._candidates[:, :n])
            candidate_q = list(self._candidate_q[:, :n])
            candidate_q_std = list(self._candidate_q_std[:, :n])
        return SampleResult(
            action=self._action,
            q=self._q,
            q_std=self._q_std,
            index=self._index,
            q_first=self._q_first,
            q_sum=self._q_sum.astype(np.float32),
            q_sumsq=self._q_sumsq.astype(np.float32),
            nonfinite=self._nonfinite,
            candidates=candidates,
            candidate_q=candidate_q,
            candidate_q_std=candidate_q_std,
        )
