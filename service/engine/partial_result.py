"""A work computed in portions: their candidates as rows of a batch, and the best of them so far.

Candidate i is the same whatever N is, so the best over portions is the best of all at once; to the bit where the
backend's bits do not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.backend import SampleBatch, SampleResult
from service.sample import Work
from service.scheduling.job import Portion


def batch_of(portions: Sequence[Portion[Work]]) -> tuple[SampleBatch, list[NDArray[np.intp]]]:
    """The portions as one batch, and for each of them which observations of its work have rows there."""
    observation, seed, which = [], [], []
    columns = _Columns([], [], [], [])
    for portion in portions:
        work, start, stop, _ = portion
        observations = len(work.observation)
        if start == 0 and stop == work.rows:  # most are: 1 us each, where the general case takes 15
            indices = _first(observations)
            observation.append(work.observation)
            seed.append(work.seeds)
            columns.add(work, [work.num_candidates] * observations, [0] * observations)
        else:
            indices, first, counts = _candidates_of(portion)
            observation.append(work.observation[indices])
            seed.append(work.seeds[indices])
            columns.add(work, counts.tolist(), first.tolist())
        which.append(indices)
    batch = SampleBatch(
        observation=np.concatenate(observation),
        num_candidates=np.array(columns.num_candidates, np.int32),
        num_steps=np.array(columns.num_steps, np.int32),
        seed=np.concatenate(seed),
        temperature=np.array(columns.temperature, np.float32),
        first_candidate=np.array(columns.first_candidate, np.int32),
        return_candidates=any(portion.work.return_candidates for portion in portions),
    )
    return batch, which


class _Columns(NamedTuple):
    """A batch's scalars, one a row."""

    num_candidates: list[int]
    num_steps: list[int]
    temperature: list[float]
    first_candidate: list[int]

    def add(self, work: Work, counts: list[int], first: list[int]) -> None:
        self.num_candidates.extend(counts)
        self.num_steps.extend([work.num_steps] * len(counts))
        self.temperature.extend([work.temperature] * len(counts))
        self.first_candidate.extend(first)


@lru_cache(maxsize=64)
def _first(count: int) -> NDArray[np.intp]:
    """0 to count - 1; not to be written to."""
    indices = np.arange(count)
    indices.flags.writeable = False
    return indices


def _candidates_of(portion: Portion[Work]) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Which observations have candidates in the portion, from which on, and how many. `job` has the rows' numbering."""
    work, start, stop, _ = portion
    observations = np.arange(len(work.observation))
    first = -((observations - start) // len(observations))
    counts = -((observations - stop) // len(observations)) - first
    which = np.flatnonzero(counts)
    return which, first[which], counts[which]


class RunningBest:
    """The best of the candidates of a work that have been computed.

    Args:
        work: as the first portion has it; a later one may have fewer candidates, never fewer than were computed.
        action_dim: of its policy.
    """

    def __init__(self, work: Work, action_dim: int) -> None:
        observations, n = len(work.observation), work.num_candidates
        self._action = np.zeros((observations, action_dim), np.float32)
        self._q = np.full(observations, -np.inf, np.float32)
        self._q_std = np.zeros(observations, np.float32)
        self._index = np.zeros(observations, np.int32)
        self._q_first = np.zeros(observations, np.float32)
        self._q_sum = np.zeros(observations)
        self._q_sumsq = np.zeros(observations)
        self._nonfinite = np.zeros(observations, np.bool_)
        self._stop = 0
        self._candidates: NDArray[np.float32] | None = None
        if work.return_candidates:
            self._candidates = np.empty((observations, n, action_dim), np.float32)
            self._candidate_q = np.empty((observations, n), np.float32)

    def add(self, portion: Portion[Work], which: NDArray[np.intp], result: SampleResult, rows: slice) -> None:
        """Take in `portion`, whose observations `which` are `rows` of `result`. A second time changes nothing."""
        if portion.stop <= self._stop:
            return
        self._stop = portion.stop
        q = result.q[rows]
        better = q > self._q[which]  # not >=: of equals the lowest index wins, and it came first
        winners, source = which[better], np.arange(rows.start, rows.stop)[better]
        self._action[winners] = result.action[source]
        self._q[winners] = result.q[source]
        self._q_std[winners] = result.q_std[source]
        self._index[winners] = result.index[source]
        fresh = which >= portion.start  # candidate 0 of these is in the portion
        self._q_first[which[fresh]] = result.q_first[rows][fresh]
        self._q_sum[which] += result.q_sum[rows]
        self._q_sumsq[which] += result.q_sumsq[rows]
        self._nonfinite[which] |= result.nonfinite[rows]
        if self._candidates is not None:
            assert result.candidates is not None
            assert result.candidate_q is not None
            for observation, row in zip(which.tolist(), range(rows.start, rows.stop), strict=True):
                first, count = -((observation - portion.start) // len(self._q)), len(result.candidates[row])
                self._candidates[observation, first : first + count] = result.candidates[row]
                self._candidate_q[observation, first : first + count] = result.candidate_q[row]

    def result(self) -> SampleResult:
        """As if all candidates had been computed at once; after the last portion."""
        n = self._stop // len(self._q)
        candidates = candidate_q = None
        if self._candidates is not None:
            candidates = list(self._candidates[:, :n])
            candidate_q = list(self._candidate_q[:, :n])
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
        )
