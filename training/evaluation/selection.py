"""Which candidate is executed: the verifier's choice, or what shows whether the verifier matters.

"best" is the backend's own choice. "random" and "worst" are made here from the candidates that a backend returns, so
that best-of-N can be compared with the same N candidates chosen without the critic, or against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.backend import SampleBatch, SampleResult
from kernels.philox import philox4x32

Selection = Literal["best", "random", "worst"]


def choose(
    batch: SampleBatch, result: SampleResult, select: Sequence[Selection]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The executed action of each of R requests, in [-1, 1], and its value: (R, action_dim) and (R,).

    Args:
        batch: what was asked; its seeds determine the choice of "random".
        result: what came back, with candidates unless every rule is "best".
        select: one rule a request; "worst" takes the lowest index among equals.
    """
    action, q = result.action.copy(), result.q.copy()
    if all(rule == "best" for rule in select):
        return action, q
    assert result.candidates is not None
    assert result.candidate_q is not None
    drawn = random_index(batch.seed, batch.num_candidates)
    for request, rule in enumerate(select):
        if rule == "best":
            continue
        values = result.candidate_q[request]
        index = int(np.argmin(values)) if rule == "worst" else int(drawn[request])
        action[request], q[request] = result.candidates[request][index], values[index]
    return action, q


def random_index(seed: NDArray[np.uint64], num_candidates: NDArray[np.int32]) -> NDArray[np.int64]:
    """Uniform on 0 .. num_candidates - 1, row by row: a pure function of the seed, independent of the seed's noise.

    Noise has counters (candidate, dimension div 4, 0, 0): the third word, 1, makes this one no noise uses.
    """
    low, high = (torch.from_numpy((seed >> np.uint64(shift)).astype(np.uint32).astype(np.int64)) for shift in (0, 32))
    zero = torch.zeros_like(low)
    word = philox4x32((zero, zero, zero + 1, zero), (low, high))[0].numpy()
    index: NDArray[np.int64] = (word * num_candidates) >> 32
    return index
