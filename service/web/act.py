"""POST /act as an ASGI application: what came over HTTP, as the answerer takes it, and its replies.

OpenVLA's form of it (`protocol.openvla`) comes to the same address.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

from service.errors import ServiceError
from service.protocol import (
    ActRequest,
    Answer,
    Answers,
    ProtocolName,
    act_reply,
    codec,
    openvla,
    parse_act,
    parse_request_id,
)
from service.web.exchange import Exchange, Reply, id_header
from service.web.problem import problem_reply


class Act:
    """Answers with the best of N candidate actions for an observation, or with a problem.

    Args:
        answers: `service.answering.Answerer`.
        max_body_bytes: longest body.
    """

    def __init__(self, answers: Answers, max_body_bytes: int) -> None:
        self._answers = answers
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = await self._answers.reply(_ActCall(Exchange(scope, receive), self._max_body_bytes))
        await reply.send(send)


class _ActCall:
    """One POST /act, as the answerer takes it."""

    __slots__ = ("_exchange", "_marker", "_max_body_bytes", "_media_type", "_text", "protocol")

    def __init__(self, exchange: Exchange, max_body_bytes: int) -> None:
        self.protocol: ProtocolName = "http"
        self._exchange = exchange
        self._max_body_bytes = max_body_bytes
        self._media_type = codec.JSON
        self._marker: str | None = None  # of the request's arrays, and therefore of the reply's
        self._text = False

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        return self._exchange.headers

    @property
    def credential(self) -> str | None:
        return self._exchange.header(b"authorization")

    @property
    def request_id(self) -> str:
        return self._exchange.request_id

    async def read(self) -> ActRequest:
        exchange = self._exchange
        exchange.check_request_id()
        self._media_type = media_type = exchange.media_type()
        fields = self._in_its_form(codec.decode(await exchange.read_body(self._max_body_bytes), media_type))
        if (given := parse_request_id(fields.get("request_id"))) is not None:
            exchange.request_id = given  # before other fields are checked, so that their errors carry it
        return parse_act(fields, media_type)

    def _in_its_form(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The request's fields. Notes in what form they came: the reply's form too."""
        in_json = self._media_type == codec.JSON
        if in_json and openvla.is_text(fields):
            self.protocol, self._text, self._marker = "openvla", True, openvla.ARRAYS
            return openvla.from_text(fields)
        marker = codec.spoken(fields)
        if marker != openvla.ARRAYS:
            self._marker = marker
        elif in_json and self._takes_anything():
            self.protocol, self._marker = "openvla", marker
        return fields

    def _takes_anything(self) -> bool:
        """Who names what it takes, such as the page, has not patched its JSON to find arrays in it."""
        accept = self._exchange.header(b"accept")
        return accept is None or "*/*" in accept

    async def hung_up(self) -> None:
        await self._exchange.hung_up()

    def answered(self, answer: Answer, timing: Callable[[], dict[str, float]]) -> Reply:
        reply_type = codec.JSON if self._text else self._exchange.reply_type(self._media_type)
        encoded = codec.encode(act_reply(answer), reply_type, self._marker)
        body = codec.append(encoded, {"timing_ms": timing()}, reply_type)
        return Reply(200, reply_type, openvla.as_text(body) if self._text else body, (id_header(answer.request_id),))

    def refused(self, error: ServiceError) -> Reply:
        return problem_reply(error, self.request_id)
