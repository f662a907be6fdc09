"""Clients that send too slowly, too much or never read, over real sockets: what they get, and what others get."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.service.listening import Listening, listening
from tests.service.waiting import WAIT, until

pytestmark = pytest.mark.anyio

Rows = Callable[[int], list[list[float]]]
ACT, INFER, RELOAD = "/act", "/v2/models/small/infer", "/models/small/reload"


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def websocket(server: Listening) -> connect:
    uri = f"ws://127.0.0.1:{server.port}/openpi"
    return connect(uri, compression=None, proxy=None, open_timeout=WAIT, ping_interval=None)


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What the server sends until it closes."""
    return await asyncio.wait_for(reader.read(), WAIT)


def problem(reply: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)


async def metrics(client: httpx.AsyncClient, name: str, *labels: str) -> float:
    """The sum of a metric's series that have all of `labels`."""
    lines = (await client.get("/metrics")).text.splitlines()
    found = [line for line in lines if re.match(rf"{name}[ {{]", line) and all(label in line for label in labels)]
    return sum(float(line.split()[-1]) for line in found)


def head(path: str, *more: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *more, "", ""]).encode()


@pytest.mark.parametrize(
    ("path", "protocol", "expected"),
    [
        (ACT, "http", lambda words: words["code"] == "request_timeout" and "7 bytes of it did" in words["detail"]),
        (INFER, "open-inference", lambda words: words["error"].startswith("request_timeout: ")),
    ],
)
@pytest.mark.parametrize("length", ["Content-Length: 100", "Transfer-Encoding: chunked"])
async def test_a_slow_body_is_told_so_in_its_protocol(
    make_settings: Any, path: str, protocol: str, expected: Callable[[dict[str, Any]], bool], length: str
) -> None:
    async with listening(make_settings(request_seconds=0.1)) as server, connected(server.port) as (reader, writer):
        writer.write(head(path, length) + (b"64\r\n" if "chunked" in length else b"") + b'{"obser')
        status, words = problem(await rest(reader))
        assert status == 408
        assert expected(words), words
        labels = (f'protocol="{protocol}"', 'outcome="request_timeout"', 'code="408"')
        assert await metrics(server.client, "sorl_requests_total", *labels) == 1


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"", None, "slow"),
        (b"POST /act HTTP/1.1\r\nHost: x", 408, "slow"),
        (b"POST /act HTTP/1.1\r\nX: " + b"x" * 40_000, 431, "large_headers"),
        (b"\0\0\0\0\0\0\0\0", 400, "malformed"),
    ],
)
async def test_what_is_no_request_is_counted_by_its_reason(
    make_settings: Any, sent: bytes, status: int | None, reason: str
) -> None:
    async with listening(make_settings(request_seconds=0.1)) as server, connected(server.port) as (reader, writer):
        writer.write(sent)
        reply = await rest(reader)
        assert (reply == b"") if status is None else (problem(reply)[0] == status)
        assert await metrics(server.client, "sorl_connections_closed_total", f'reason="{reason}"') == 1
        assert await metrics(server.client, "sorl_connections_closed_total") == 1


@pytest.mark.parametrize("path", [ACT, INFER])
@pytest.mark.parametrize("chunked", [False, True])
async def test_every_route_that_reads_a_body_bounds_it(make_settings: Any, path: str, chunked: bool) -> None:
    body = b"[" * 5000

    async def chunks() -> AsyncIterator[bytes]:
        for begin in range(0, len(body), 100):
            yield body[begin : begin + 100]

    async with listening(make_settings(max_body_bytes=1000)) as server:
        content: Any = chunks() if chunked else body
        response = await server.client.post(path, content=content, headers={"Content-Type": "application/json"})
        assert response.status_code == 413
        assert "payload_too_large" in response.text


async def test_bodies_that_nobody_asked_for_are_not_read(make_settings: Any) -> None:
    """No other route reads one, however long: the reply comes before the body has."""
    async with listening(make_settings()) as server:
        for method, path, expected in (("GET", "/models", 200), ("POST", RELOAD, 403), ("POST", "/nowhere", 404)):
            async with connected(server.port) as (reader, writer):
                writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n".encode())
                line = await asyncio.wait_for(reader.readline(), WAIT)
                assert int(line.split()[1]) == expected


async def test_a_frame_that_is_too_long_ends_its_session(make_settings: Any) -> None:
    async with listening(make_settings(max_body_bytes=1000)) as server, websocket(server) as client:
        await client.recv()
        await client.send(b"x" * 1001)
        with pytest.raises(ConnectionClosed) as caught:
            await asyncio.wait_for(client.recv(), WAIT)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009


async def test_websockets_count_among_the_connections(make_settings: Any, observations: Rows) -> None:
    """With the last place taken others are turned away, those that are in are served, and a place that is free again
    is for whoever comes.
    """
    async with listening(make_settings(max_connections=4)) as server, AsyncExitStack() as held:
        await server.client.get("/healthz")  # one, which its pool keeps
        sessions = [await held.enter_async_context(websocket(server)) for _ in range(3)]
        with pytest.raises(InvalidStatus) as caught:
            async with websocket(server):
                pass
        assert caught.value.response.status_code == 503
        async with connected(server.port) as (reader, _):
            status, words = problem(await rest(reader))
        assert (status, words["code"], words["retry_after_ms"]) == (503, "overloaded", 1000)
        assert (await server.client.post(ACT, json={"observation": observations(1)[0]})).status_code == 200
        assert await metrics(server.client, "sorl_connections_closed_total", 'reason="full"') == 2
        assert await metrics(server.client, "sorl_connections") == 4
        await sessions[0].close()
        await until(lambda: len(server.server.server_state.connections) == 3)
        async with websocket(server) as late:
            await late.recv()


def unread(port: int) -> socket.socket:
    """A client's socket that holds little of what it does not read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.setblocking(False)
    return client


async def flood(client: socket.socket, data: bytes) -> None:
    """Send `data` again and again, and read nothing, until the server cuts the connection."""

    async def send() -> None:
        while True:
            await asyncio.get_running_loop().sock_sendall(client, data)

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(send(), WAIT)


@pytest.mark.slow
async def test_who_does_not_read_replies_is_cut_off_and_others_are_served(
    make_settings: Any, observations: Rows
) -> None:
    row = observations(1)[0]
    body = json.dumps({"observation": row, "num_candidates": 1024, "num_steps": 1, "return_candidates": True}).encode()
    request = head(ACT, f"Content-Length: {len(body)}") + body
    async with listening(make_settings(request_seconds=0.3)) as server:
        with unread(server.port) as client:
            flooding = asyncio.ensure_future(flood(client, request))
            while not flooding.done():
                assert (await server.client.post(ACT, json={"observation": row})).status_code == 200
            await flooding
        assert await metrics(server.client, "sorl_connections_closed_total", 'reason="unread"') == 1
        assert len(server.server.server_state.connections) == 1


async def upgraded(port: int) -> socket.socket:
    client = unread(port)
    loop = asyncio.get_running_loop()
    upgrade = (
        b"GET /openpi HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await loop.sock_sendall(client, upgrade)
    assert (await loop.sock_recv(client, 12)).endswith(b" 101")
    return client


@pytest.mark.slow
async def test_pings_without_reading_are_cut_off_and_fill_no_memory(make_settings: Any) -> None:
    """A ping of 125 bytes asks for a pong of as many. What waits is bounded, however many are sent."""
    ping = b"\x89\xfd\0\0\0\0" + b"p" * 125
    async with listening(make_settings(request_seconds=0.3)) as server:
        with await upgraded(server.port) as client:
            (session,) = (held for held in server.server.server_state.connections if hasattr(held, "handle_ping"))
            most = 0
            flooding = asyncio.ensure_future(flood(client, ping * 100))
            while not flooding.done():
                await asyncio.sleep(0)
                most = max(most, session.transport.get_write_buffer_size())
            await flooding
        assert 0 < most < 1 << 20
        assert await metrics(server.client, "sorl_connections_closed_total", 'reason="unread"') == 1
