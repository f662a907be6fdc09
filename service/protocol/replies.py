"""The fields of replies, and how they are filled. /docs shows `ActReply`, `ReloadReply` and `Problem`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from service.protocol.codec import MAX_SAFE_INTEGER
from service.sample import SampleReply, SampleRequest


class Timing(BaseModel):
    """Milliseconds."""

    queue: float = Field(description="From the accepted request to the start of its first batch.")
    compute: float = Field(description="From the start of its first batch to the end of its last one.")
    total: float = Field(description="From receipt of the request to the encoded reply.")


class ActReply(BaseModel):
    """An action, its value, and the compute spent on it. Shapes follow the observation's.

    In msgpack, lists of numbers are encoded arrays.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    action: list[float] | list[list[float]] | list[list[list[float]]] = Field(
        description="In environment units. (action_dim,), or (action_horizon, action_dim) where the policy has chunks."
    )
    q: float | list[float] = Field(description="Value of the action under the ensemble.")
    q_std: float | list[float] = Field(description="Spread of the ensemble for the action.")
    num_candidates: int = Field(description="N as granted.")
    num_steps: int = Field(description="M as granted.")
    degraded: Literal[False] | str = Field(
        description="false, or why less was granted than asked: deadline (too short for it), load (too short behind "
        "what is queued, or while the server is slow), frontier (there is time, and less was measured to do as well)."
    )
    seed: int | str | list[int | str] = Field(description="As used; a string above 2^53.")
    model: str
    model_version: str = Field(description="sha256 of the checkpoint file.")
    engine: str = Field(description="What computed this; replay is bitwise for equal model_version and engine.")
    observation_z_max: float | list[float] = Field(
        description="Largest |z| of the observation under the training data's statistics: far from it above about 5."
    )
    request_id: str
    timing_ms: Timing
    action_horizon: int | None = Field(None, description="Actions in a chunk, in their order; left out where it is 1.")
    control_hz: float | None = Field(None, description="The rate at which a chunk's actions follow each other.")
    candidates: list[list[float]] | list[list[list[float]]] | list[list[list[list[float]]]] | None = Field(
        None, description="(N, action_dim), or (N, action_horizon, action_dim)."
    )
    candidate_q: list[float] | list[list[float]] | None = Field(None, description="(N,).")


class ReloadReply(BaseModel):
    """The result of a reload."""

    model_config = ConfigDict(protected_namespaces=())

    model: str
    model_version: str = Field(description="sha256 of the checkpoint file; replies name it from now on.")
    previous_version: str = Field(
        description="Served until now, and for version_grace_seconds to requests with this model_version."
    )
    outcome: Literal["swapped", "restored", "unchanged"] = Field(
        description="restored: back to a version that was still in memory; unchanged: the file is the one served."
    )


class Problem(BaseModel):
    """An error (RFC 9457). `code` is stable; `field` is there where one is at fault."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    field: str | None = None
    retry_after_ms: int | None = None


ACT_ERRORS: Mapping[int, str] = {
    401: "unauthorized",
    404: "unknown_model",
    408: "request_timeout",
    409: "version_gone",
    413: "payload_too_large",
    415: "unsupported_media_type",
    422: "invalid_request, budget_too_large or observation_too_large",
    429: "rate_limited, with Retry-After",
    500: "engine_failed or nonfinite_output",
    503: "overloaded or not_ready, with Retry-After",
    504: "deadline_exceeded",
}
"""What a request for an action may meet: codes by status."""


def problem_responses(meanings: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` for /docs, from the codes of each status."""
    content = {"application/problem+json": {"schema": Problem.model_json_schema()}}
    return {status: {"description": f"code: {codes}", "content": content} for status, codes in meanings.items()}


@dataclass(frozen=True)
class Answer:
    """An answered request, which each protocol words in its own form.

    Attributes:
        reply: from the engine, with B rows.
        request: as computed, which may be less than was granted.
        single: the observation came as (obs_dim,): the reply has no row axis.
        seed: as used.
        model, model_version: what answered.
        request_id: what the reply is matched by.
        action_horizon: of the model; above 1, each action of `reply` is a chunk.
        control_hz: of the model; None: nobody has said.
    """

    reply: SampleReply
    request: SampleRequest
    single: bool
    seed: int | Sequence[int]
    model: str
    model_version: str
    request_id: str
    action_horizon: int = 1
    control_hz: float | None = None

    @property
    def chunks(self) -> NDArray[np.float32]:
        """(B, action_horizon, action_dim), for protocols whose actions always have an axis of time."""
        action = self.reply.action
        return action.reshape(len(action), self.action_horizon, -1)


def act_reply(answer: Answer) -> dict[str, Any]:
    """The members of `ActReply` without `timing_ms`, with NumPy arrays in them (see `codec.encode`)."""
    reply, request = answer.reply, answer.request

    def rows(array: NDArray[Any]) -> Any:
        return array[0] if answer.single else array

    def values(array: NDArray[Any]) -> Any:
        return float(array[0]) if answer.single else array

    members = {
        "action": rows(reply.action),
        "q": values(reply.q),
        "q_std": values(reply.q_std),
        "num_candidates": request.num_candidates,
        "num_steps": request.num_steps,
        "degraded": request.degraded,
        "seed": printable_seed(answer.seed),
        "engine": reply.engine,
        "observation_z_max": values(reply.observation_z_max),
        "model": answer.model,
        "model_version": answer.model_version,
        "request_id": answer.request_id,
    }
    if answer.action_horizon > 1:
        members["action_horizon"] = answer.action_horizon
        members["control_hz"] = answer.control_hz
    if reply.candidates is not None and reply.candidate_q is not None:
        members["candidates"] = rows(reply.candidates)
        members["candidate_q"] = rows(reply.candidate_q)
    return members


def timing_ms(*, queue: float, compute: float, total: float) -> dict[str, float]:
    """The fields of `Timing`, from seconds."""
    return {"queue": round(queue * 1e3, 4), "compute": round(compute * 1e3, 4), "total": round(total * 1e3, 4)}


def printable_seed(seed: int | Sequence[int]) -> int | str | list[int | str]:
    """A seed as replies hold it: a decimal string above 2^53."""
    if isinstance(seed, int):
        return seed if seed <= MAX_SAFE_INTEGER else str(seed)
    return [item if item <= MAX_SAFE_INTEGER else str(item) for item in seed]
