"""Which candidate is executed: the critic's choice, or one that shows whether the critic matters.

"best" is the backend's own choice. The others are chosen here from the candidates that a backend returns, so that
best-of-N can be compared with the same N candidates chosen without the critic ("random"), against it ("worst"), or by
it with less trust in its highest values ("upper-quartile").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.backend import SampleBatch, SampleResult
from kernels.commitment import Commitment, coherent_index
from kernels.philox import philox4x32
from training.episodes import Selection


def choose(
    batch: SampleBatch,
    result: SampleResult,
    select: Sequence[Selection],
    commitments: Sequence[Commitment | None] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The executed action or chunk of each of R requests, (R, chunk_dim) in [-1, 1], and its Q, (R,).

    Args:
        batch: the requests; their seeds determine the choice of "random".
        result: the backend's result, with candidates unless every rule is "best" and nothing is committed.
        select: one rule per request. Equal Q are ordered by candidate index: "worst" takes the lowest index.
        commitments: per request what its robot is committed to, of one row, or None; None: nothing. Only with "best".
    """
    action, q = result.action.copy(), result.q.copy()
    if all(rule == "best" for rule in select) and not any(commitments or ()):
        return action, q
    assert result.candidates is not None
    assert result.candidate_q is not None
    drawn = random_index(batch.seed, batch.num_candidates)
    for request, rule in enumerate(select):
        commitment = None if commitments is None else commitments[request]
        if rule == "best" and commitment is None:
            continue
        values = result.candidate_q[request]
        if commitment is not None:
            index = coherent_index(result.candidates[request], values, commitment.actions[0], commitment.coherence)
        elif rule == "random":
            index = int(drawn[request])
        else:
            index = int(np.argmin(values)) if rule == "worst" else upper_quartile_index(values)
        action[request], q[request] = result.candidates[request][index], values[index]
    return action, q


def upper_quartile_index(q: NDArray[np.float32]) -> int:
    """Index of the candidate of rank N // 4 by descending Q, counted from 0: of 64 the 17th, of 2 the best.

    Args:
        q: (N,). Equal values are ordered by index.
    """
    return int(np.argsort(-q, kind="stable")[len(q) // 4])


def random_index(seed: NDArray[np.uint64], num_candidates: NDArray[np.int32]) -> NDArray[np.int64]:
    """One index per row, uniform on 0 .. num_candidates - 1: a pure function of the seed, independent of its noise.

    Noise uses the Philox counters (candidate, dimension div 4, 0, 0). This counter has 1 as its third word, which no
    noise uses.
    """
    low, high = (torch.from_numpy((seed >> np.uint64(shift)).astype(np.uint32).astype(np.int64)) for shift in (0, 32))
    zero = torch.zeros_like(low)
    word = philox4x32((zero, zero, zero + 1, zero), (low, high))[0].numpy()
    index: NDArray[np.int64] = (word * num_candidates) >> 32
    return index
