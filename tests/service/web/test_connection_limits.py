"""What a client may do with a connection: with a transport and a clock of the test's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from service.errors import ServiceError
from service.web.exchange import Exchange, Reply
from service.web.http_protocol import MAX_HEAD_BYTES, ConnectionLimits, HttpProtocol
from service.web.problem import problem_reply
from tests.clock import Clock
from tests.service.waiting import until

SECONDS = 10.0
HEAD = b"POST /act HTTP/1.1\r\nhost: robot\r\ncontent-length: 4\r\n\r\n"
GET = b"GET /page HTTP/1.1\r\nhost: robot\r\n\r\n"
UPGRADE = (
    b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)

pytestmark = pytest.mark.anyio


class Timers:
    """An event loop whose timers go by a clock of the test's own. Everything else is the running loop's."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._loop = asyncio.get_running_loop()
        self._due: list[tuple[float, asyncio.TimerHandle, Callable[[], None]]] = []

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(self.clock.now + seconds, callback, (), self._loop)
        self._due.append((self.clock.now + seconds, handle, callback))
        return handle

    def time(self) -> float:
        return self.clock.now

    def pass_by(self, seconds: float) -> None:
        """Move the clock, and call what is due on the way, in order."""
        end = self.clock.now + seconds
        while found := min((timer for timer in self._due if timer[0] <= end), key=lambda timer: timer[0], default=None):
            self._due.remove(found)
            self.clock.now, handle, callback = found
            if not handle.cancelled():
                callback()
        self.clock.now = end

    @property
    def running(self) -> int:
        return sum(not handle.cancelled() for _, handle, _ in self._due)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


@dataclass
class Transport:
    """What was written, and whether the connection was closed or cut."""

    sent: bytes = b""
    closed: bool = False
    cut: bool = False

    def write(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.cut = True

    def is_closing(self) -> bool:
        return self.closed

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_extra_info(self, name: str) -> None:
        return None


@dataclass
class Connection:
    """A connection to a server that answers /act with its body, once `gate` is open, and /page without reading any."""

    timers: Timers
    state: ServerState = field(default_factory=ServerState)
    max_connections: int = 8
    transport: Transport = field(default_factory=Transport)
    reasons: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()
        config = uvicorn.Config(
            self._answer,
            ws="websockets-sansio",
            interface="asgi3",
            lifespan="off",
            log_config=None,
            timeout_keep_alive=75,
        )
        config.load()
        limits = ConnectionLimits(self.max_connections, SECONDS, self.reasons.append)
        self.protocol = HttpProtocol(limits, config, self.state, {}, self.timers)
        self.protocol.connection_made(self.transport)  # type: ignore[arg-type]

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            return
        reply = Reply(200, "text/plain", b"page", ())
        if scope["path"] == "/act":
            exchange = Exchange(scope, receive)
            try:
                body = await exchange.read_body(1 << 20)
                await self.gate.wait()
                reply = Reply(200, "text/plain", body, ())
            except ServiceError as error:
                reply = problem_reply(error, exchange.request_id)
        await reply.send(send)

    def send(self, data: bytes) -> None:
        self.protocol.data_received(data)

    async def answered(self) -> list[tuple[int, bytes]]:
        """Status and body of every reply so far, once the server has nothing more to do."""
        await self._quiet()
        found, rest = [], self.transport.sent
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            (length,) = (int(line[16:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length: "))
            found.append((int(head.split()[1]), rest[:length]))
            rest = rest[length:]
        return found

    async def _quiet(self) -> None:
        """Let the loop turn until the application waits for its client, its gate, or has ended."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def refused(self) -> tuple[int, str, bool]:
        """Status and code of the only reply, and whether the connection was closed after it."""
        ((status, body),) = await self.answered()
        return status, json.loads(body)["code"], self.transport.closed


async def test_a_connection_that_sends_nothing_is_closed_without_a_word() -> None:
    connection = Connection(Timers())
    connection.timers.pass_by(SECONDS - 0.1)
    assert not connection.transport.closed
    connection.timers.pass_by(0.2)
    assert connection.transport.closed
    assert (connection.transport.sent, connection.reasons) == (b"", ["slow"])


@pytest.mark.parametrize("before", [b"", GET])
async def test_a_head_has_to_come_in_time_however_it_drips(before: bytes) -> None:
    connection = Connection(Timers())
    if before:
        connection.send(before)
        assert await connection.answered() == [(200, b"page")]
        connection.transport.sent = b""
        connection.timers.pass_by(30)  # a pause between two requests is nothing of the kind
    for byte in range(int(SECONDS)):
        assert not connection.transport.closed
        connection.send(HEAD[byte : byte + 1])
        connection.timers.pass_by(1)
    assert await connection.refused() == (408, "request_timeout", True)
    assert connection.reasons == ["slow"]


@pytest.mark.parametrize("before", [b"", GET])
async def test_empty_lines_do_not_keep_a_connection(before: bytes) -> None:
    """A parser skips them, so they begin no request."""
    connection = Connection(Timers())
    if before:
        connection.send(before)
        await connection.answered()
    for _ in range(int(SECONDS)):
        connection.send(b"\r\n")
        connection.timers.pass_by(1)
    assert connection.transport.closed
    assert connection.reasons == ["slow"]


async def test_a_body_has_to_come_in_time() -> None:
    connection = Connection(Timers())
    connection.send(HEAD + b"bo")
    await connection.answered()
    connection.timers.pass_by(SECONDS - 1)
    connection.send(b"d")
    connection.timers.pass_by(0.5)
    assert await connection.answered() == []
    connection.timers.pass_by(1)
    assert await connection.refused() == (408, "request_timeout", True)
    assert connection.reasons == []  # it counts as a request with an outcome


async def test_a_body_in_time_is_answered_and_needs_no_timer_any_more() -> None:
    connection = Connection(Timers())
    for part in (HEAD[:30], HEAD[30:] + b"bo", b"dy"):
        connection.timers.pass_by(SECONDS / 3)
        connection.send(part)
    assert await connection.answered() == [(200, b"body")]
    assert connection.timers.running == 1  # that of the pause until the next request
    connection.timers.pass_by(SECONDS + 1)
    assert await connection.answered() == [(200, b"body")]


async def test_a_request_that_came_whole_has_no_timer_while_it_is_computed() -> None:
    connection = Connection(Timers())
    connection.gate.clear()
    connection.send(HEAD + b"body")
    await connection.answered()
    assert connection.timers.running == 0
    connection.timers.pass_by(3600)
    connection.gate.set()
    assert await connection.answered() == [(200, b"body")]


async def test_a_part_of_the_next_request_does_not_take_the_reply_before_it() -> None:
    connection = Connection(Timers())
    connection.gate.clear()
    connection.send(HEAD + b"body" + HEAD[:20])
    await connection.answered()
    connection.timers.pass_by(3 * SECONDS)
    assert not connection.transport.closed
    connection.gate.set()
    assert await connection.answered() == [(200, b"body")]
    connection.transport.sent = b""
    connection.timers.pass_by(SECONDS)
    assert await connection.refused() == (408, "request_timeout", True)


async def test_the_rest_of_a_body_that_nobody_reads_has_to_come_in_time_too() -> None:
    connection = Connection(Timers())
    connection.send(b"POST /page HTTP/1.1\r\nhost: robot\r\ncontent-length: 1000000\r\n\r\n")
    assert await connection.answered() == [(200, b"page")]
    for _ in range(int(SECONDS)):
        connection.send(b"byte")
        connection.timers.pass_by(1)
    assert connection.transport.closed
    assert connection.reasons == ["slow"]


def head_of(length: int) -> bytes:
    return b"GET /page HTTP/1.1\r\nhost: robot\r\nx: " + b"x" * (length - 40) + b"\r\n\r\n"


@pytest.mark.parametrize("parts", [1, 2, 7, 3000])
@pytest.mark.parametrize("before", [b"", GET])
async def test_a_head_may_have_so_many_bytes_and_no_more(parts: int, before: bytes) -> None:
    for length in (MAX_HEAD_BYTES, MAX_HEAD_BYTES + parts + 1):
        connection = Connection(Timers())
        if before:
            connection.send(before)
            await connection.answered()
            connection.transport.sent = b""
        head = head_of(length)
        assert len(head) == length
        size = -(-length // parts)
        for begin in range(0, length, size):
            if not connection.transport.closed:
                connection.send(head[begin : begin + size])
        if length == MAX_HEAD_BYTES:
            assert await connection.answered() == [(200, b"page")]
        else:
            assert await connection.refused() == (431, "headers_too_large", True)
            assert connection.reasons == ["large_headers"]


@pytest.mark.parametrize("packet", [1 << 20, 60_000, 1000])
async def test_a_long_body_is_not_a_long_head(packet: int) -> None:
    connection = Connection(Timers())
    body = b"line\r\n\r\n" * 50_000
    request = b"POST /act HTTP/1.1\r\nhost: robot\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    for _ in range(2):
        for begin in range(0, len(request), packet):
            connection.send(request[begin : begin + packet])
        assert (await connection.answered())[-1] == (200, body)


async def test_many_requests_in_one_packet_are_not_a_long_head() -> None:
    connection = Connection(Timers())
    many = 2 * MAX_HEAD_BYTES // len(GET)
    connection.send(GET * many + GET[:9])
    connection.send(GET[9:] + GET * many)
    await until(lambda: connection.transport.sent.count(b" 200 ") == 2 * many + 1)
    assert not connection.transport.closed


async def test_a_head_whose_end_comes_in_two_parts_before_a_long_body() -> None:
    connection = Connection(Timers())
    body = b"b" * 50_000
    head = b"POST /act HTTP/1.1\r\nhost: robot\r\ncontent-length: %d\r\n\r\n" % len(body)
    for cut in (1, 2, 3):
        connection.send(head[:-cut])
        connection.send(head[-cut:] + body)
        assert (await connection.answered())[-1] == (200, body)


@pytest.mark.parametrize("noise", [b"\x16\x03\x01\x02\x00\x01", b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
async def test_what_is_not_http_is_told_so(noise: bytes) -> None:
    connection = Connection(Timers())
    connection.send(noise)
    assert await connection.refused() == (400, "malformed_request", True)
    assert connection.reasons == ["malformed"]


async def test_one_connection_too_many_is_refused_at_once() -> None:
    timers, state = Timers(), ServerState()
    first, second, third = (Connection(timers, state, max_connections=2) for _ in range(3))
    assert await third.refused() == (503, "overloaded", True)
    assert third.reasons == ["full"]
    assert b"\r\nRetry-After: 1\r\n" in third.transport.sent
    third.protocol.connection_lost(None)
    first.protocol.connection_lost(None)
    fourth = Connection(timers, state, max_connections=2)
    for connection in (second, fourth):
        connection.send(GET)
        assert await connection.answered() == [(200, b"page")]


async def test_a_websocket_is_a_connection_and_has_no_timer_of_requests() -> None:
    timers, state = Timers(), ServerState()
    websocket = Connection(timers, state, max_connections=1)
    websocket.send(UPGRADE)
    await until(lambda: b" 101 " in websocket.transport.sent)
    second = Connection(timers, state, max_connections=1)
    assert await second.refused() == (503, "overloaded", True)
    second.protocol.connection_lost(None)
    (protocol,) = state.connections
    protocol.stop_keepalive()  # type: ignore[union-attr]
    assert timers.running == 0
    protocol.connection_lost(None)
    assert not state.connections


def of_http(connection: Connection) -> Any:
    return connection.protocol


def of_websocket(connection: Connection) -> Any:
    connection.send(UPGRADE)
    (protocol,) = connection.state.connections
    protocol.loop = connection.timers  # type: ignore[assignment]
    return protocol


@pytest.mark.parametrize("kind", [of_http, of_websocket])
async def test_who_does_not_read_is_cut_off(kind: Callable[[Connection], Any]) -> None:
    connection = Connection(Timers())
    protocol = kind(connection)
    connection.protocol._wait_no_longer()
    protocol.pause_writing()  # as a transport does that can't send what it was given
    connection.timers.pass_by(SECONDS - 1)
    protocol.resume_writing()
    connection.timers.pass_by(SECONDS)
    assert not connection.transport.cut
    protocol.pause_writing()
    protocol.transport.close()  # a transport that closes goes on sending what it has
    connection.timers.pass_by(SECONDS + 1)
    assert connection.transport.cut
    assert connection.reasons == ["unread"]
    protocol.connection_lost(None)


async def test_pings_of_who_does_not_read_are_not_answered() -> None:
    connection = Connection(Timers())
    protocol = of_websocket(connection)
    await until(lambda: b" 101 " in connection.transport.sent)
    connection.transport.sent = b""
    ping = b"\x89\x84\0\0\0\0ping"
    protocol.data_received(ping)
    assert connection.transport.sent == b"\x8a\x04ping"
    protocol.pause_writing()
    for _ in range(1000):
        protocol.data_received(ping)
    assert connection.transport.sent == b"\x8a\x04ping"
    protocol.resume_writing()
    protocol.data_received(ping)
    assert connection.transport.sent == b"\x8a\x04ping" * 2
    protocol.connection_lost(None)


async def test_websockets_that_were_opened_together_are_not_pinged_together() -> None:
    timers, state = Timers(), ServerState()
    for _ in range(64):
        Connection(timers, state, max_connections=64).send(UPGRADE)
    await until(lambda: all(protocol.ping_timer for protocol in state.connections))  # type: ignore[union-attr]
    now = asyncio.get_running_loop().time()
    delays = sorted(protocol.ping_timer.when() - now for protocol in state.connections)  # type: ignore[union-attr]
    assert 0 <= delays[0] < 5 < 15 < delays[-1] <= 20  # of 64, none in a quarter of the interval: once in 10^7 times
    for protocol in list(state.connections):
        protocol.connection_lost(None)


async def test_a_lost_connection_leaves_no_timer() -> None:
    connection = Connection(Timers())
    connection.send(HEAD[:9])
    connection.protocol.pause_writing()
    assert connection.timers.running == 2
    connection.protocol.connection_lost(None)
    assert connection.timers.running == 0
