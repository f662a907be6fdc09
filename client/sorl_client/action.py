"""`Action`: the server's reply to one observation, or to a batch of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Action:
    """An action, its value and its cost. Shapes follow the observation's: (obs_dim,) or (B, obs_dim).

    action             (action_dim,) or (B, action_dim), environment units, finite, writable
    q, q_std           the action's value (mean or minimum over the critics, set by the policy) and its standard
                       deviation over the critics; floats, or (B,)
    num_candidates     N as granted
    num_steps          M as granted
    degraded           False, or the reason why less was granted than requested
    seed               the seed used, also if the server chose it; in a batch with one seed s, row b has s + b
    model_version      SHA-256 of the checkpoint; with `engine` and `seed` it determines the action bit for bit
    observation_z_max  largest |z| of the observation by the training data's statistics; far above 5 means that the
                       observation is unlike the training data
    timing_ms          times on the server, in ms: queue, compute, total
    latency_ms         time from the call to the reply on the client's clock, in ms, retries included
    attempts           how many times the request was sent, hedges included
    candidates         all candidates, (N, action_dim) or (B, N, action_dim); None unless requested
    candidate_q        their values, (N,) or (B, N); None unless requested
    reply              the whole reply, decoded
    """

    action: FloatArray
    q: float | FloatArray
    q_std: float | FloatArray
    num_candidates: int
    num_steps: int
    degraded: Literal[False] | str
    seed: int | list[int]
    model: str
    model_version: str
    engine: str
    observation_z_max: float | FloatArray
    request_id: str
    timing_ms: dict[str, float]
    latency_ms: float
    attempts: int
    candidates: FloatArray | None
    candidate_q: FloatArray | None
    reply: dict[str, Any]

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any], *, latency_ms: float, attempts: int) -> Action:
        """Read the decoded body of a reply to POST /act.

        Raises ValueError, KeyError or TypeError if a field is missing or invalid, or if the action is not finite: this
        is the last check before the motors.
        """
        action = np.array(reply["action"], dtype=np.float32)
        if action.ndim not in (1, 2):
            raise ValueError(f"action has shape {action.shape}")
        if not np.isfinite(action).all():
            raise ValueError("action is not finite")
        rows = action.shape[:-1]
        seed = reply["seed"]
        return cls(
            action=action,
            q=_per_row(reply["q"], rows),
            q_std=_per_row(reply["q_std"], rows),
            num_candidates=int(reply["num_candidates"]),
            num_steps=int(reply["num_steps"]),
            degraded=False if reply["degraded"] is False else str(reply["degraded"]),
            seed=[int(row) for row in seed] if isinstance(seed, list) else int(seed),
            model=str(reply["model"]),
            model_version=str(reply["model_version"]),
            engine=str(reply["engine"]),
            observation_z_max=_per_row(reply["observation_z_max"], rows),
            request_id=str(reply["request_id"]),
            timing_ms={str(part): float(spent) for part, spent in dict(reply["timing_ms"]).items()},
            latency_ms=latency_ms,
            attempts=attempts,
            candidates=_optional(reply.get("candidates")),
            candidate_q=_optional(reply.get("candidate_q")),
            reply=dict(reply),
        )


def _per_row(value: Any, rows: tuple[int, ...]) -> float | FloatArray:
    array = np.array(value, dtype=np.float32)
    if array.shape != rows:
        raise ValueError(f"expected shape {rows}, got {array.shape}")
    return array if rows else float(array)


def _optional(value: Any) -> FloatArray | None:
    return None if value is None else np.array(value, dtype=np.float32)
