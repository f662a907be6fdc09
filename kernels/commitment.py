"""Commitments: a chunk's first actions, which a robot executes while it is computed: the rest of the chunk before.

Chunks that best-of-N picks one after the other may belong to different modes: to pass an obstacle on the left, then on
the right. So the next one is picked by value among the candidates that begin most like what the robot does meanwhile
(`coherent_index`). This is the backward coherence of Bidirectional Decoding (arXiv 2408.17355), without its decay: all
committed actions will be executed, the last as surely as the first. Networks with a `prefix_max` know these actions
too (`network_input`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # requests hold commitments, and the scheduler does without torch
    from kernels.backend import SampleResult
    from policy import PolicySpec

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Commitment:
    """What robots are committed to, and how much that counts.

    Attributes:
        actions: (B, d, action_dim) in [-1, 1], the first d actions of each row's chunk.
        coherence: in [0, 1], the share of candidates that are left out for lying far from them.
    """

    actions: Float32
    coherence: float


def coherent_index(candidates: Float32, q: Float32, committed: Float32, coherence: float) -> int:
    """The candidate of the highest value among the ceil((1 - coherence) N), at least one, that are nearest.

    The distance is the root mean square of the differences to the committed actions. Equal candidates are ordered by
    their index, in distance as in value. With coherence 0 it is the candidate of the highest value.

    Args:
        candidates: (N, chunk_dim) in [-1, 1].
        q: (N,).
        committed: (d, action_dim) in [-1, 1].
    """
    count = len(q)
    keep = max(1, math.ceil(round((1 - coherence) * count, 9)))  # 0.9 of 10 leaves 1, not 1.0000000000000002
    differences = candidates[:, : committed.size].astype(np.float64) - committed.reshape(-1)
    nearest = np.sort(np.argsort(np.square(differences).sum(axis=1), kind="stable")[:keep])
    return int(nearest[np.argmax(q[nearest])])


def choose(result: SampleResult, commitment: Commitment, rows: slice = slice(None)) -> tuple[Float32, Float32, Float32]:
    """The choice by `coherent_index` in each of `rows`: actions (B, chunk_dim), values and their deviations, (B,) each.

    Args:
        result: of a batch with `return_candidates`.
        commitment: of the B requests in `rows`.
    """
    assert result.candidates is not None
    assert result.candidate_q is not None
    assert result.candidate_q_std is not None
    columns = result.candidates[rows], result.candidate_q[rows], result.candidate_q_std[rows]
    chosen = []
    for committed, candidates, q, q_std in zip(commitment.actions, *columns, strict=True):
        index = coherent_index(candidates, q, committed, commitment.coherence)
        chosen.append((candidates[index], q[index], q_std[index]))
    actions, values, deviations = (np.array(column) for column in zip(*chosen, strict=True))
    return actions, values, deviations


def network_input(spec: PolicySpec, observation: Float32, committed: Float32 | None = None) -> Float32:
    """What a backend takes, (B, input_dim): the observation itself for policies without prefixes.

    Args:
        observation: (B, obs_dim).
        committed: (B, d, action_dim) in [-1, 1]; of more than `prefix_max` actions the first ones count.
    """
    if spec.prefix_max == 0:
        return observation
    import torch

    from policy import with_prefix

    rows = len(observation)
    actions = np.zeros((rows, spec.prefix_max, spec.action_dim), np.float32)
    length = 0
    if committed is not None:
        length = min(committed.shape[1], spec.prefix_max)
        actions[:, :length] = committed[:, :length]
    counts = torch.full((rows,), length)
    inputs: Float32 = with_prefix(spec, torch.tensor(observation), torch.from_numpy(actions), counts).numpy()
    return inputs
