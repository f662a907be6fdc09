"""What an engine is asked and what it answers: plain values and arrays, one set a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.commitment import Commitment

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class SampleRequest:
    """One request to an engine: B observations that are answered together.

    Its network rows are numbered candidate by candidate: row r is candidate r // B of observation r % B.

    Attributes:
        observation: (B, obs_dim) float32, finite, in the policy's dimensions.
        num_candidates, num_steps: N and M as granted.
        seeds: (B,) uint64.
        temperature: scales the noise.
        return_candidates: also return all N candidates.
        commitment: the actions that the robot executes meanwhile, which the choice takes account of; None: the best.
        degraded: why N or M are less than the client asked for; False if they are not.
    """

    observation: Float32
    num_candidates: int
    num_steps: int
    seeds: NDArray[np.uint64]
    temperature: float = 1.0
    return_candidates: bool = False
    degraded: Literal[False] | str = False
    commitment: Commitment | None = None

    @property
    def needs_candidates(self) -> bool:
        """Whether all candidates are needed to answer it, and not only the best."""
        return self.return_candidates or self.commitment is not None

    @property
    def rows(self) -> int:
        """Network rows: B * N."""
        return len(self.observation) * self.num_candidates


class RequestPart(NamedTuple):
    """Rows [start, stop) of a request. A large request is computed part by part, so that others need not wait for it.

    Attributes:
        request: the whole request.
        partial: what the engine returned for the rows before `start`; None for the first part.
    """

    request: SampleRequest
    start: int
    stop: int
    partial: object | None = None

    @classmethod
    def whole(cls, request: SampleRequest) -> RequestPart:
        """All rows of `request` as one part."""
        return cls(request, 0, request.rows)


@dataclass(frozen=True)
class SampleReply:
    """An engine's answer to a `SampleRequest`.

    Attributes:
        action: (B, action_dim), environment units; of a policy with an action_horizon h above 1, which answers with
            chunks, (B, h, action_dim).
        q, q_std: (B,), the action's value and its spread over the ensemble.
        q_first: (B,), the value of candidate 0, which N = 1 would have returned.
        observation_z_max: (B,), largest |z| under the checkpoint's statistics.
        engine: what computed it.
        candidates, candidate_q: (B, N, action_dim) or (B, N, h, action_dim) in environment units, and (B, N), when
            asked for.
    """

    action: Float32
    q: Float32
    q_std: Float32
    q_first: Float32
    observation_z_max: Float32
    engine: str
    candidates: Float32 | None = None
    candidate_q: Float32 | None = None
