"""The server's answer to one observation, or to a batch of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Action:
    """What to do, and what the answer cost. Shapes follow the observation's: (obs_dim,) or (B, obs_dim).

    action             (action_dim,) or (B, action_dim), environment units, finite, writable
    q, q_std           value of the action: mean or minimum over the critics (the policy's choice), and their spread;
                       floats, or (B,)
    num_candidates     N and M as granted
    num_steps
    degraded           False, or in words why less was granted than asked for
    seed               the seed used, also when the server chose it; in a batch, row b of a single seed s has s + b
    model_version      SHA-256 of the checkpoint; with `engine` and `seed` it makes the action repeatable bit for bit
    observation_z_max  largest |z| of the observation under the training statistics: far above 5 is unknown territory
    timing_ms          the server's account: queue, compute, total
    latency_ms         from the call to the answer on this side's clock, retries included
    attempts           how often the request was sent
    candidates         all candidates, (N, action_dim) or (B, N, action_dim), and their q, (N,) or (B, N); None unless
    candidate_q        asked for
    reply              everything the server sent, decoded
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

        Raises ValueError, KeyError or TypeError if a field is missing or is not what it should be; an action that is
        not finite is refused here too, as the last check before motors.
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
