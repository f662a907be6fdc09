"""What clients get: the fields of a reply, and how they are filled. `ActReply` and `Problem` are what /docs shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from service.protocol.schemas import MAX_SAFE_INTEGER
from service.sample import Outcome, Work


class Timing(BaseModel):
    """Milliseconds from receipt of the request."""

    queue: float = Field(description="Waiting for the batch before.")
    compute: float = Field(description="In the batch that held this request.")
    total: float = Field(description="From receipt to the reply being written.")


class ActReply(BaseModel):
    """The answer; shapes follow the observation's. In msgpack, lists of numbers are encoded arrays."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    action: list[float] | list[list[float]] = Field(description="In environment units.")
    q: float | list[float] = Field(description="Value of the action under the ensemble.")
    q_std: float | list[float] = Field(description="Spread of the ensemble for the action.")
    num_candidates: int = Field(description="N as granted.")
    num_steps: int = Field(description="M as granted.")
    degraded: Literal[False] | str = Field(
        description="false, or why less was granted than asked: deadline (too short for it), load (too short behind "
        "what is queued), frontier (there is time, and less was measured to do better)."
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
    candidates: list[list[float]] | list[list[list[float]]] | None = Field(None, description="(N, action_dim).")
    candidate_q: list[float] | list[list[float]] | None = Field(None, description="(N,).")


class ReloadReply(BaseModel):
    """What a reload came to."""

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


def problem_responses(meanings: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """Statuses and the codes they come with, as FastAPI's `responses` for /docs."""
    content = {"application/problem+json": {"schema": Problem.model_json_schema()}}
    return {status: {"description": f"code: {codes}", "content": content} for status, codes in meanings.items()}


def act_reply(
    outcome: Outcome, work: Work, *, single: bool, seed: int | Sequence[int], identity: dict[str, str]
) -> dict[str, Any]:
    """The members of `ActReply` but for `timing_ms`, with NumPy arrays in them (see `codec.encode`).

    Args:
        outcome: from the engine, with B rows.
        work: as computed.
        single: the observation came as (obs_dim,): leave the row axis out.
        seed: as used.
        identity: `model`, `model_version` and `request_id`.
    """

    def rows(array: NDArray[Any]) -> Any:
        return array[0] if single else array

    def values(array: NDArray[Any]) -> Any:
        return float(array[0]) if single else array

    reply = {
        "action": rows(outcome.action),
        "q": values(outcome.q),
        "q_std": values(outcome.q_std),
        "num_candidates": work.num_candidates,
        "num_steps": work.num_steps,
        "degraded": work.degraded,
        "seed": printable_seed(seed),
        "engine": outcome.engine,
        "observation_z_max": values(outcome.observation_z_max),
        **identity,
    }
    if outcome.candidates is not None and outcome.candidate_q is not None:
        reply["candidates"] = rows(outcome.candidates)
        reply["candidate_q"] = rows(outcome.candidate_q)
    return reply


def printable_seed(seed: int | Sequence[int]) -> int | str | list[int | str]:
    """A seed as replies carry it: above 2^53 a decimal string."""
    if isinstance(seed, int):
        return seed if seed <= MAX_SAFE_INTEGER else str(seed)
    return [item if item <= MAX_SAFE_INTEGER else str(item) for item in seed]
