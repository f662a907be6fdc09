"""openpi's websocket protocol as an ASGI application: sessions, in which a client asks again and again.

A session is at /openpi, and at any path of openpi's own port (`Websockets.port`), since its client takes no path.
/v1/realtime/robot/openpi, where vLLM-Omni has it, speaks vLLM-Omni's form.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

from starlette.routing import BaseRoute, Match
from starlette.types import Message, Receive, Scope, Send

from service.access import Access
from service.errors import InvalidRequest, NotFound, ServiceError
from service.lifecycle import Lifecycle
from service.models import Catalog
from service.protocol import ActRequest, Answer, Answers, ProtocolName, new_request_id, openpi, parse_request_id
from service.web.cross_site import refuse_cross_site
from service.web.exchange import Exchange
from service.web.problem import problem_reply

PATH = "/openpi"
VLLM_OMNI_PATH = "/v1/realtime/robot/openpi"

# The longest wait of a client for warm-up. openpi's gives up after 10 s, and says more about a 503 than about that.
WARM_UP_SECONDS = 8.0

# Frames that are read while a request is computed, to see the client hang up. Clients of this protocol send none then.
MAX_AHEAD = 4


class Websockets(BaseRoute):
    """The route of every websocket: a session of openpi's protocol, or a problem in answer to the upgrade.

    Args:
        answers: `service.answering.Answerer`.
        access: who may begin a session; the answerer checks every request again.
        lifecycle: says whether requests can be computed.
        catalog: has the metadata.
        count_error: is told of those who may not begin a session.
        cors_origins: of other sites whose pages may begin one from a browser.

    Attributes:
        port: at which every path is openpi's; None: there is none.
    """

    def __init__(
        self,
        answers: Answers,
        access: Access,
        lifecycle: Lifecycle,
        catalog: Catalog,
        count_error: Callable[[ServiceError, ProtocolName], None],
        cors_origins: Collection[str],
    ) -> None:
        self.port: int | None = None
        self._answers = answers
        self._access = access
        self._lifecycle = lifecycle
        self._catalog = catalog
        self._count_error = count_error
        self._cors_origins = cors_origins

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return (Match.FULL if scope["type"] == "websocket" else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive)
        with contextlib.suppress(OSError):  # what `send` raises once the client has hung up
            await receive()  # "websocket.connect"
            try:
                form = self._form(scope)
            except NotFound as error:
                await _deny(error, exchange.request_id, scope, receive, send)
                return
            try:
                await self._admit(exchange)
            except ServiceError as error:
                self._count_error(error, "openpi")
                await _deny(error, exchange.request_id, scope, receive, send)
                return
            metadata = openpi.metadata(self._catalog.describe(self._catalog.find(None).name))
            session = _Session(self._answers, self._catalog, form, exchange, _Frames(receive), send)
            await session.run(metadata)

    def _form(self, scope: Scope) -> openpi.Form:
        path = scope["path"].removeprefix(scope["root_path"]).rstrip("/")
        if path == VLLM_OMNI_PATH:
            return openpi.VLLM_OMNI
        server = scope.get("server")
        if path == PATH or (self.port is not None and server is not None and server[1] == self.port):
            return openpi.OPENPI
        raise NotFound(f"there is no websocket at {path[:80]!r}; {PATH} is the policy in openpi's protocol")

    async def _admit(self, exchange: Exchange) -> None:
        refuse_cross_site(exchange.headers, self._cors_origins)
        self._access.check("act", exchange.header(b"authorization"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WARM_UP_SECONDS):
                await self._lifecycle.settled()
        self._lifecycle.check_serving()


async def _deny(error: ServiceError, request_id: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the upgrade with a problem, or with a bare refusal where the host can't send bodies there."""
    if "websocket.http.response" in scope.get("extensions", {}):
        await problem_reply(error, request_id).response()(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": openpi.INTERNAL_ERROR, "reason": error.code})


class _Frames:
    """A client's frames, in order. Those that come while a request is computed wait for `next`."""

    def __init__(self, receive: Receive) -> None:
        self.ended = False
        self._receive = receive
        self._ahead: deque[openpi.Frame] = deque()

    async def next(self) -> openpi.Frame | None:
        """The next frame; None: the client has hung up."""
        if self._ahead and not self.ended:
            return self._ahead.popleft()
        return await self._read()

    async def hung_up(self) -> None:
        """Returns when the client has hung up. It is no longer noticed once `MAX_AHEAD` frames wait."""
        while (frame := await self._read()) is not None:
            self._ahead.append(frame)
            if len(self._ahead) == MAX_AHEAD:
                await asyncio.get_running_loop().create_future()  # until it is cancelled

    async def _read(self) -> openpi.Frame | None:
        if self.ended:
            return None  # a host has nothing more to receive
        message: Message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self.ended = True
            return None
        frame: openpi.Frame | None = message.get("bytes")
        return message["text"] if frame is None else frame


class _Session:
    """One client, from the metadata to its end."""

    def __init__(
        self,
        answers: Answers,
        catalog: Catalog,
        form: openpi.Form,
        exchange: Exchange,
        frames: _Frames,
        send: Send,
    ) -> None:
        self._answers = answers
        self._catalog = catalog
        self._form = form
        self._exchange = exchange
        self._frames = frames
        self._send = send
        self._previous_ms: float | None = None

    async def run(self, metadata: bytes) -> None:
        await self._send({"type": "websocket.accept"})
        await self._send_frame(metadata)
        while (frame := await self._next()) is not None:
            received = time.monotonic()
            control = self._form.control_reply(frame)
            outgoing = openpi.Outgoing(control) if control is not None else await self._answer(frame)
            if self._frames.ended:
                return
            await self._send_frame(outgoing.frame)
            if outgoing.close is not None:
                await self._close(outgoing.close)
                return
            if control is None:
                self._previous_ms = round((time.monotonic() - received) * 1e3, 4)

    async def _next(self) -> openpi.Frame | None:
        if self._form.idle_seconds is None:
            return await self._frames.next()
        try:
            async with asyncio.timeout(self._form.idle_seconds):
                return await self._frames.next()
        except TimeoutError:
            await self._close(openpi.NORMAL_CLOSURE)
            return None

    async def _answer(self, frame: openpi.Frame) -> openpi.Outgoing:
        call = _Call(self._catalog, self._form, self._exchange, self._frames, frame, self._previous_ms)
        return await self._answers.reply(call)

    async def _send_frame(self, frame: openpi.Frame) -> None:
        kind = "text" if isinstance(frame, str) else "bytes"
        await self._send({"type": "websocket.send", kind: frame})

    async def _close(self, code: int) -> None:
        await self._send({"type": "websocket.close", "code": code})


class _Call:
    """One request of a session, as the answerer takes it."""

    __slots__ = ("_catalog", "_exchange", "_form", "_frame", "_frames", "_previous_ms", "protocol", "request_id")

    def __init__(
        self,
        catalog: Catalog,
        form: openpi.Form,
        exchange: Exchange,
        frames: _Frames,
        frame: openpi.Frame,
        previous_ms: float | None,
    ) -> None:
        self.protocol: ProtocolName = "openpi"
        self.request_id = new_request_id()
        self._catalog = catalog
        self._form = form
        self._exchange = exchange
        self._frames = frames
        self._frame = frame
        self._previous_ms = previous_ms

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        return self._exchange.headers

    @property
    def credential(self) -> str | None:
        return self._exchange.header(b"authorization")

    async def read(self) -> ActRequest:
        fields = self._form.fields(self._frame)
        if (given := parse_request_id(fields.get("request_id"))) is not None:
            self.request_id = given  # before other fields are checked, so that the log has their errors under it
        try:
            return openpi.parse(fields)
        except InvalidRequest as error:
            if (error.field or "").startswith("observation"):
                openpi.check_parts(fields, self._describe(fields.get("model")))
            raise

    def _describe(self, model: Any) -> dict[str, Any]:
        """The entry of the model that the request names, or of the default one."""
        name = self._catalog.find(model if isinstance(model, str) else None).name
        return self._catalog.describe(name)

    async def hung_up(self) -> None:
        await self._frames.hung_up()

    def answered(self, answer: Answer, timing: Callable[[], dict[str, float]]) -> openpi.Outgoing:
        return self._form.answered(answer, timing, self._previous_ms)

    def refused(self, error: ServiceError) -> openpi.Outgoing:
        return self._form.refused(error)
