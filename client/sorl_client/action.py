"""`Action`: the server's reply to one observation, or to a batch of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sorl_client import parameters
from sorl_client.errors import InvalidArgument

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Action:
    """An action, its value and its cost. Shapes follow the observation's: (obs_dim,) or (B, obs_dim).

    A policy with an `action_horizon` h above 1 answers with chunks: h actions, in the order in which they are to be
    executed. Each (action_dim,) below is then (h, action_dim).

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
    action_horizon     h; 1 where replies are single actions
    control_hz         of a chunk: the rate at which its actions follow each other, or None where nobody has said
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
    action_horizon: int = 1
    control_hz: float | None = None

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any], *, latency_ms: float, attempts: int) -> Action:
        """Read the decoded body of a reply to POST /act.

        Raises ValueError, KeyError or TypeError if a field is missing or invalid, if shapes do not fit each other and
        `action_horizon`, or if the action is not finite: this is the last check before the motors.
        """
        horizon, control_hz = _horizon_and_rate(reply)
        action = np.array(reply["action"], dtype=np.float32)
        rows, one = _rows_and_action(action.shape, horizon)
        if not np.isfinite(action).all():
            raise ValueError("action is not finite")
        num_candidates = int(reply["num_candidates"])
        seed = reply["seed"]
        return cls(
            action=action,
            q=_per_row("q", reply["q"], rows),
            q_std=_per_row("q_std", reply["q_std"], rows),
            num_candidates=num_candidates,
            num_steps=int(reply["num_steps"]),
            degraded=False if reply["degraded"] is False else str(reply["degraded"]),
            seed=[int(row) for row in seed] if isinstance(seed, list) else int(seed),
            model=str(reply["model"]),
            model_version=str(reply["model_version"]),
            engine=str(reply["engine"]),
            observation_z_max=_per_row("observation_z_max", reply["observation_z_max"], rows),
            request_id=str(reply["request_id"]),
            timing_ms={str(part): float(spent) for part, spent in dict(reply["timing_ms"]).items()},
            latency_ms=latency_ms,
            attempts=attempts,
            candidates=_optional("candidates", reply, (*rows, num_candidates, *one)),
            candidate_q=_optional("candidate_q", reply, (*rows, num_candidates)),
            reply=dict(reply),
            action_horizon=horizon,
            control_hz=control_hz,
        )


def _horizon_and_rate(reply: Mapping[str, Any]) -> tuple[int, float | None]:
    """`action_horizon`, which single actions lack, and `control_hz`, which may be None."""
    try:
        horizon = parameters.AT_LEAST_ONE.or_none("action_horizon", reply.get("action_horizon")) or 1
        control_hz = parameters.HZ.or_none("control_hz", reply.get("control_hz"))
    except InvalidArgument as error:  # the reply is at fault, no argument
        raise ValueError(error.detail) from error
    return horizon, None if control_hz is None else float(control_hz)


def _rows_and_action(shape: tuple[int, ...], horizon: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The parts of an action's `shape`: () or (B,), then (action_dim,) or (h, action_dim)."""
    chunk = () if horizon == 1 else (horizon,)
    axes = len(chunk) + 1
    if len(shape) not in (axes, axes + 1) or shape[-axes:-1] != chunk:
        sizes = ", ".join([*map(str, chunk), "action_dim"])
        expected = f"({sizes}{'' if chunk else ','}) or (B, {sizes})"
        raise ValueError(f"action: expected shape {expected}, got {shape}")
    return shape[:-axes], shape[-axes:]


def _per_row(name: str, value: Any, rows: tuple[int, ...]) -> float | FloatArray:
    array = np.array(value, dtype=np.float32)
    if array.shape != rows:
        raise ValueError(f"{name}: expected shape {rows}, got {array.shape}")
    return array if rows else float(array)


def _optional(name: str, reply: Mapping[str, Any], shape: tuple[int, ...]) -> FloatArray | None:
    if reply.get(name) is None:
        return None
    array = np.array(reply[name], dtype=np.float32)
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    return array
