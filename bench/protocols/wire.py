"""`WireProtocol`: a protocol as its client knows it; `Ask` and `Reply` are the same in all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from bench.connection import RequestConnection

Connection = RequestConnection[Any]

STATUS = {
    "invalid_request": 422,
    "budget_too_large": 422,
    "observation_too_large": 422,
    "unauthorized": 401,
    "not_found": 404,
    "unknown_model": 404,
    "version_gone": 409,
    "payload_too_large": 413,
    "rate_limited": 429,
    "internal_error": 500,
    "engine_failed": 500,
    "nonfinite_output": 500,
    "not_ready": 503,
    "overloaded": 503,
    "deadline_exceeded": 504,
}
"""HTTP's status of an error code, for protocols that have no statuses."""


@dataclass(frozen=True)
class ServerAddress:
    """Where a server listens.

    Attributes:
        http: its URL.
        websocket: URL of openpi's protocol; None: it has none.
        zeromq: tcp://HOST:PORT of GR00T's protocol; None: it has none.
        grpc: grpc://HOST:PORT of the Open Inference Protocol over gRPC; None: it has none.
    """

    http: str
    websocket: str | None = None
    zeromq: str | None = None
    grpc: str | None = None


@dataclass(frozen=True)
class Ask:
    """A request, in no protocol yet.

    Attributes:
        model: the model's name, for protocols whose address names it.
        observation: (obs_dim,) float32.
        deadline_ms: None without one.
        request_id: None: the server makes one.
    """

    model: str
    observation: np.ndarray
    num_candidates: int
    num_steps: int
    seed: int
    deadline_ms: float | None = None
    request_id: str | None = None

    def options(self) -> dict[str, Any]:
        """The fields of POST /act beside observation and model."""
        fields = {
            "num_candidates": self.num_candidates,
            "num_steps": self.num_steps,
            "seed": self.seed,
            "deadline_ms": self.deadline_ms,
            "request_id": self.request_id,
        }
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True)
class Reply:
    """A server's answer, whatever the protocol.

    Attributes:
        status: HTTP's, or of an error in another protocol that of its code (`STATUS`).
        ids: the request ids in it; None among them stands for one that is missing.
        fields: with status 200, `action`, `num_candidates`, `num_steps`, `degraded`, `model_version` and `engine`.
        code: an error's; "" if it is not in the form that the protocol has for errors.
        detail: what an error says, or what is wrong with its form.
        retry_after_ms: when to ask again, if an error says so.
    """

    status: int
    ids: frozenset[str | None]
    fields: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    detail: str = ""
    retry_after_ms: float | None = None


class WireProtocol(ABC):
    """How requests become bytes, and how answers are read.

    Attributes:
        transport: protocols of one transport share connections.
        id_beside_body: whether what can't be read has an id, too, in a header.
    """

    transport: Literal["http", "websocket", "zeromq", "grpc"]
    id_beside_body = False

    @abstractmethod
    async def connect(self, at: ServerAddress) -> Connection:
        """A connection to the server. Raises OSError."""

    @abstractmethod
    def encode(self, ask: Ask) -> bytes:
        """The bytes of a request, for `Connection.ask`."""

    @abstractmethod
    def read(self, raw: Any) -> Reply:
        """What `Connection.ask` was answered, which may be anything."""

    @abstractmethod
    def is_action(self, raw: Any) -> bool:
        """Whether it is an action and no error, by a glance: a load generator has no time to read it."""

    def wrap(self, ask: Ask, payload: bytes, headers: Mapping[str, str]) -> bytes:
        """The bytes of a request with any payload, malformed ones too, for `Connection.ask`. Only HTTP has headers."""
        return payload


def worded_error(
    text: str, ids: frozenset[str | None], status: int | None = None, retry_after_s: str | None = None
) -> Reply:
    """An error of the form "code: detail".

    Args:
        status: HTTP's; None: that of the code.
        retry_after_s: HTTP's header.
    """
    code, _, detail = text.partition(": ")
    if code not in STATUS or status not in (None, STATUS[code]):
        return unreadable(status or 500, ids, text)
    after = None if retry_after_s is None else 1e3 * float(retry_after_s)
    return Reply(STATUS[code], ids, code=code, detail=detail, retry_after_ms=after)


def unreadable(status: int, ids: frozenset[str | None], raw: object) -> Reply:
    """An answer that is not in the protocol's form: with status 200 its fields are missing, else its code."""
    return Reply(status, ids, detail=f"not in the protocol's form: {raw!r:.200}")
