"""GR00T's endpoints: what comes over ZeroMQ, as the answerer takes it, and its replies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from service.access import Access
from service.errors import InternalError, ServiceError
from service.lifecycle import Lifecycle
from service.models import Catalog
from service.protocol import ActRequest, Answer, Answers, ProtocolName, groot, new_request_id, parse_request_id
from service.zeromq.router import Frames, Router

log = logging.getLogger(__name__)

RECEIVED_TIMES = 16
"""Messages of up to so many times the longest body are read, and refused. The socket disconnects the client of a longer
one, which never learns why: what a robot sends by mistake, images beside its state, should get an answer."""


class GrootEndpoint:
    """Serves GR00T's clients on a port of its own.

    Requests wait until the warm-up has ended: the original takes none before either, and its client takes an error
    for the end.

    Args:
        answers: `service.answering.Answerer`.
        access: who may ask. Every endpoint wants the key, `ping` too, as in the original.
        lifecycle: says when the warm-up has ended.
        catalog: the models.
        host, port: to bind; port 0 is a free one.
        max_body_bytes: longest message.

    Raises:
        OSError: the address can't be bound.
    """

    def __init__(
        self,
        answers: Answers,
        *,
        access: Access,
        lifecycle: Lifecycle,
        catalog: Catalog,
        host: str,
        port: int,
        max_body_bytes: int,
    ) -> None:
        self._answers = answers
        self._access = access
        self._lifecycle = lifecycle
        self._catalog = catalog
        self._max_body_bytes = max_body_bytes
        self._router = Router(host, port, RECEIVED_TIMES * max_body_bytes)
        self._starting: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where clients connect: tcp://HOST:PORT."""
        return self._router.address

    def start(self) -> None:
        """Answer requests once the warm-up has ended. On the event loop that will serve."""
        log.info("listening on %s (GR00T's protocol)", self.address)
        self._starting = asyncio.ensure_future(self._start())

    async def stop(self) -> None:
        """Answer what has come, and close. After `Runtime.stop`, which ends what requests wait for."""
        if self._starting is not None:
            await self._starting
        await self._router.stop()

    async def _start(self) -> None:
        await self._lifecycle.settled()
        self._router.start(self._answer)

    async def _answer(self, frames: Frames) -> bytes:
        call = _GetAction(frames, self._max_body_bytes)
        if call.endpoint == groot.GET_ACTION:
            return await self._answers.reply(call)
        try:
            self._access.check("act", call.credential)
            return groot.encode(self._tell(call.endpoint, call.data))
        except ServiceError as error:
            return call.refused(error)
        except Exception as error:
            log.error("endpoint %r failed", call.endpoint, exc_info=error)
            return call.refused(InternalError())

    def _tell(self, endpoint: str, data: Mapping[Any, Any]) -> dict[str, Any]:
        """The reply of an endpoint that computes nothing. Raises NotFound, UnknownModel, InvalidRequest."""
        groot.check_endpoint(endpoint)
        if endpoint == "ping":
            return {"status": "ok", "message": "Server is running"}
        if endpoint == "get_modality_config":
            name = groot.model_name(data)
            return groot.modality_config(self._catalog.describe(self._catalog.find(name).name))
        return {}  # reset: a policy keeps nothing between requests


class _GetAction:
    """One message, as the answerer takes it. One that can't be read counts as a request for an action."""

    __slots__ = ("_error", "credential", "data", "endpoint", "protocol", "request_id")

    def __init__(self, frames: Frames, max_body_bytes: int) -> None:
        self.protocol: ProtocolName = "groot"
        self.request_id = new_request_id()
        self.endpoint = groot.GET_ACTION
        self.credential: str | None = None
        self.data: Mapping[Any, Any] = {}
        self._error: ServiceError | None = None
        try:
            call = groot.parse_call(frames, max_body_bytes)
            self.endpoint, self.data, self.credential = call.endpoint, call.data, call.credential
        except ServiceError as error:
            self._error = error  # raised once the answerer has checked the key

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        return {}

    async def read(self) -> ActRequest:
        if self._error is not None:
            raise self._error
        fields = groot.act_fields(self.data)
        if (given := parse_request_id(fields.get("request_id"))) is not None:
            self.request_id = given  # before other fields are checked, so that their errors carry it
        return groot.parse_get_action(fields)

    async def hung_up(self) -> None:
        """Never returns: ZeroMQ does not tell that a client is gone."""
        await asyncio.get_running_loop().create_future()

    def answered(self, answer: Answer, timing: Callable[[], dict[str, float]]) -> bytes:
        return groot.action_reply(answer, timing)

    def refused(self, error: ServiceError) -> bytes:
        return groot.error_reply(error, self.request_id)
