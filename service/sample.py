"""What an engine is asked, and what it answers: plain values and arrays, one a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Work:
    """One request, B observations that are answered together.

    Attributes:
        observation: (B, obs_dim) float32, finite, in the policy's dimensions.
        num_candidates, num_steps: N and M, granted.
        seeds: (B,) uint64.
        temperature: scales the noise.
        return_candidates: also return all N candidates.
        degraded: why N or M are less than asked for; False: they are not.
    """

    observation: Float32
    num_candidates: int
    num_steps: int
    seeds: NDArray[np.uint64]
    temperature: float = 1.0
    return_candidates: bool = False
    degraded: Literal[False] | str = False

    @property
    def rows(self) -> int:
        """Network rows: B * N."""
        return len(self.observation) * self.num_candidates


@dataclass(frozen=True)
class Outcome:
    """What became of a `Work`.

    Attributes:
        action: (B, action_dim), environment units.
        q, q_std: (B,), the action's value and its spread over the ensemble.
        q_first: (B,), the value of candidate 0: what N = 1 would have given.
        observation_z_max: (B,), largest |z| under the checkpoint's statistics.
        engine: what computed it.
        candidates, candidate_q: (B, N, action_dim) in environment units and (B, N), when asked for.
    """

    action: Float32
    q: Float32
    q_std: Float32
    q_first: Float32
    observation_z_max: Float32
    engine: str
    candidates: Float32 | None = None
    candidate_q: Float32 | None = None
