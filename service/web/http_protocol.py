"""uvicorn's protocols, with limits for slow and hostile clients; and the head and body of a reply leave in one packet.

uvicorn writes head and body one after the other: two system calls of 20 us each, and a client that wakes up twice. Here
both writes are held until the event loop's next turn and leave as one.

Limits cost a request 0.5 us: one that came whole, as robots' do, needs no timer. A timer runs while a connection has
sent nothing yet, or a part of a request, or has not read its reply.

This relies on internals of uvicorn: those that the methods below override or call. pyproject.toml pins uvicorn and
httptools below the next release, and tests fail when these move.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.errors import HeadersTooLarge, MalformedRequest, Overloaded, RequestTimeout, ServiceError
from service.observability import ClosedFor
from service.protocol import new_request_id
from service.web.exchange import TOO_SLOW
from service.web.problem import problem_reply

MAX_HEAD_BYTES = 32 << 10
"""Of the request line and the headers together. Twice what browsers and proxies send at most."""

RETRY_AFTER_MS = 1000  # connections come and go within seconds


_NONE = object()


@dataclass(frozen=True)
class ConnectionLimits:
    """What the connections of a server may do.

    Attributes:
        max_connections: most of them at a time, websockets among them.
        request_seconds: longest time from a request's first byte to its last, from a connection to its first byte, and
            for a client to read its reply.
        count: is told why a connection was closed on its client.
    """

    max_connections: int
    request_seconds: float
    count: Callable[[ClosedFor], None]


class JoinedWrites:
    """A transport that joins the writes of one turn of the event loop. Everything else is the transport's own."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Hold `data` until this turn of the event loop is over."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        """Write what is held, then close."""
        self._flush()
        self._transport.close()

    def released(self) -> asyncio.Transport:
        """The transport itself, once what is held is written."""
        self._flush()
        return self._transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, []
            self._transport.write(b"".join(held))


class _MustRead(asyncio.Protocol):
    """A protocol whose client has to read: one that leaves a part of a reply unread for `request_seconds` is cut off,
    also where the connection is closing, which would otherwise wait for it for ever.
    """

    limits: ConnectionLimits
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # From here on `pause_writing` tells of all that has to wait. With 0, TLS would take an empty buffer for full.
        self.transport.set_write_buffer_limits(high=1)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._has_read()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.limits.request_seconds, self._cut)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._has_read()

    def _has_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _cut(self) -> None:
        self._unread = None
        self.limits.count("unread")
        self.transport.abort()


class HttpProtocol(_MustRead, HttpToolsProtocol):
    """A connection of HTTP/1.1. It takes uvicorn's arguments after its own."""

    def __init__(self, limits: ConnectionLimits, *args: Any, **kwargs: Any) -> None:
        HttpToolsProtocol.__init__(self, *args, **kwargs)
        self.limits = limits
        self.ws_protocol_class = partial(WebsocketProtocol, limits)  # type: ignore[assignment]
        self._timer: asyncio.TimerHandle | None = None
        self._ended: object = _NONE  # the scope of the request that ended in the last packet
        self._head_bytes = 0  # that came of a head whose end has not come

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(JoinedWrites(transport, self.loop))  # type: ignore[arg-type]
        most = self.limits.max_connections
        if len(self.connections) > most:
            detail = f"the server has {most} connections already (max_connections)"
            self._refuse(Overloaded(detail, retry_after_ms=RETRY_AFTER_MS), "full")
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._wait_no_longer()

    def data_received(self, data: bytes) -> None:
        if self._head_bytes + len(data) > MAX_HEAD_BYTES and self._head_is_too_long(data):
            detail = f"the request line and the headers are longer than {MAX_HEAD_BYTES} bytes"
            self._refuse(HeadersTooLarge(detail), "large_headers")
            return
        self._ended = _NONE
        HttpToolsProtocol.data_received(self, data)
        if self._ended is not self.scope:
            self._came_in_part(len(data))
        elif self._timer is not None:
            self._wait_no_longer()

    def on_message_complete(self) -> None:
        HttpToolsProtocol.on_message_complete(self)
        self._ended = self.scope

    def send_400_response(self, msg: str) -> None:
        self._refuse(MalformedRequest("expected a request of HTTP/1.1"), "malformed")

    def handle_websocket_upgrade(self) -> None:
        """A frame is one write already. Not holding it saves 6 of the 39 us that an echo takes."""
        self.transport = self.transport.released()  # type: ignore[attr-defined]
        super().handle_websocket_upgrade()

    def _has_head(self) -> bool:
        """Whether the head of the request that came last is complete."""
        return self.cycle is not None and self.cycle.scope is self.scope

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _head_is_too_long(self, data: bytes) -> bool:
        if self._ended is not self.scope and self._has_head():
            return False  # it is a body
        room = MAX_HEAD_BYTES - self._head_bytes
        # The end of a head may itself have come in two parts.
        return room < 0 or (b"\r\n\r\n" not in data[:room] and b"\n" not in data[:3])

    def _came_in_part(self, size: int) -> None:
        """A packet of `size` bytes, after which a request is expected to go on."""
        if self._has_head() or self._ended is not _NONE:  # how many bytes of the packet are the head's is not known
            self._head_bytes = 0
        else:
            self._head_bytes += size
        if self._timer is None:
            self._wait()

    def _wait(self) -> None:
        self._timer = self.loop.call_later(self.limits.request_seconds, self._too_slow)

    def _wait_no_longer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._head_bytes = 0

    def _too_slow(self) -> None:
        """Nothing came over a new connection, or the rest of a request did not come."""
        self._timer = None
        if self.transport.is_closing():
            return
        if self._is_answering():
            if self._has_head():  # the application waits for the rest of the body
                self.scope[TOO_SLOW] = True  # type: ignore[literal-required]
                self.cycle.message_event.set()
            self._wait()  # for the reply, which has to leave before anything else is said
        elif self.scope is not None and not self._has_head():
            detail = f"the headers took longer than {self.limits.request_seconds:g} s (request_seconds)"
            self._refuse(RequestTimeout(detail), "slow")
        else:
            self.limits.count("slow")
            self.transport.close()

    def _refuse(self, error: ServiceError, reason: ClosedFor) -> None:
        """Say why, unless a reply to an earlier request is due, and close."""
        self.limits.count(reason)
        if not self._is_answering():
            reply = problem_reply(error, new_request_id())
            headers = {
                **dict(self.server_state.default_headers),
                b"content-type": reply.media_type.encode(),
                b"content-length": b"%d" % len(reply.body),
                **dict(reply.headers),
                b"Connection": b"close",
            }
            lines = [b"%b: %b\r\n" % header for header in headers.items()]
            self.transport.write(b"".join([STATUS_LINE[reply.status], *lines, b"\r\n", reply.body]))
        self.transport.close()


class WebsocketProtocol(_MustRead, WebSocketsSansIOProtocol):
    """A connection that became a websocket. It takes uvicorn's arguments after its own."""

    def __init__(self, limits: ConnectionLimits, *args: Any, **kwargs: Any) -> None:
        WebSocketsSansIOProtocol.__init__(self, *args, **kwargs)
        self.limits = limits

    def start_keepalive(self) -> None:
        """Begin with the first ping at any moment of the interval. Of websockets that were opened together all would be
        pinged together, and a thousand pings and pongs hold up a robot for 75 ms.
        """
        self.last_ping_rtt = random.uniform(0.0, self.ping_interval or 0.0)  # is taken off the interval
        super().start_keepalive()

    def handle_ping(self) -> None:
        """Answer it, unless the client has left something unread: who pings and never reads would fill the memory."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()
