"""A work computed in portions: their candidates as rows of a batch, and the best of them so far.

Candidate i is the same whatever N is, so the best over portions is the best of all at once; to the bit where the
backend's bits do not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kernels.backend import SampleBatch, SampleResult
from service.job import Portion
from service.work import Work


def batch_of(portions: Sequence[Portion[Work]]) -> tuple[SampleBatch, list[NDArray[np.intp]]]:
    """The portions as one batch, and for each of them which observations of its work have rows there."""
    works = [portion.work for portion in portions]
    parts = [_candidates_of(portion) for portion in portions]
    rows = [len(which) for which, _, _ in parts]
    batch = SampleBatch(
        observation=np.concatenate([w.observation[which] for w, (which, _, _) in zip(works, parts, strict=True)]),
        num_candidates=np.concatenate([count for _, _, count in parts]),
        num_steps=np.repeat(np.array([work.num_steps for work in works], dtype=np.int32), rows),
        seed=np.concatenate([w.seeds[which] for w, (which, _, _) in zip(works, parts, strict=True)]),
        temperature=np.repeat(np.array([work.temperature for work in works], dtype=np.float32), rows),
        first_candidate=np.concatenate([first for _, first, _ in parts]),
        return_candidates=any(work.return_candidates for work in works),
    )
    return batch, [which for which, _, _ in parts]


def _candidates_of(portion: Portion[Work]) -> tuple[NDArray[np.intp], NDArray[np.int32], NDArray[np.int32]]:
    """Which observations have candidates in the portion, from which on, and how many. `job` has the rows' numbering."""
    work, start, stop, _ = portion
    observations = np.arange(len(work.observation))
    if start == 0 and stop == work.rows:
        count = len(observations)
        return observations, np.zeros(count, np.int32), np.full(count, work.num_candidates, np.int32)
    first = -((observations - start) // len(observations))
    counts = -((observations - stop) // len(observations)) - first
    which = np.flatnonzero(counts)
    return which, first[which].astype(np.int32), counts[which].astype(np.int32)


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
