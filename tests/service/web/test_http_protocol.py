"""Head and body of a reply leave together, in order, and nothing is left behind."""

from __future__ import annotations

import asyncio

import uvicorn
from starlette.endpoints import WebSocketEndpoint
from starlette.responses import PlainTextResponse
from uvicorn.server import ServerState

from service.web.http_protocol import ConnectionLimits, HttpProtocol, JoinedWrites

LIMITS = ConnectionLimits(max_connections=8, request_seconds=10, count=lambda reason: None)


class FakeTransport:
    def __init__(self) -> None:
        self.done: list[object] = []

    def write(self, data: bytes) -> None:
        self.done.append(data)

    def close(self) -> None:
        self.done.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.done

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_extra_info(self, name: str) -> None:
        return None

    def set_protocol(self, protocol: object) -> None:
        pass


def joined(transport: FakeTransport) -> JoinedWrites:
    return JoinedWrites(transport, asyncio.get_running_loop())  # type: ignore[arg-type]  # all of one that is used


def test_one_turns_writes_are_one() -> None:
    async def run() -> list[object]:
        transport = FakeTransport()
        writes = joined(transport)
        writes.write(b"head ")
        writes.write(b"body")
        assert transport.done == []
        await asyncio.sleep(0)
        writes.write(b"next")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return transport.done

    assert asyncio.run(run()) == [b"head body", b"next"]


def test_what_was_written_leaves_before_the_connection_closes() -> None:
    async def run() -> list[object]:
        transport = FakeTransport()
        writes = joined(transport)
        writes.write(b"last ")
        writes.write(b"words")
        assert not writes.is_closing()
        writes.close()
        assert writes.is_closing()
        await asyncio.sleep(0)
        return transport.done

    assert asyncio.run(run()) == [b"last words", "closed"]


def test_uvicorn_writes_a_reply_in_one_packet() -> None:
    """Fails when a release of uvicorn or httptools no longer works as `http_protocol` expects."""

    async def run() -> list[object]:
        transport = FakeTransport()
        config = uvicorn.Config(PlainTextResponse("the body"), lifespan="off", log_config=None)
        config.load()
        protocol = HttpProtocol(LIMITS, config, ServerState(), {})
        protocol.connection_made(transport)  # type: ignore[arg-type]
        protocol.data_received(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        while not transport.done:
            await asyncio.sleep(0)
        await asyncio.gather(*protocol.tasks)
        protocol.timeout_keep_alive_task.cancel()
        return transport.done

    (packet,) = asyncio.run(run())
    assert isinstance(packet, bytes)
    assert packet.startswith(b"HTTP/1.1 200")
    assert packet.endswith(b"\r\n\r\nthe body")


def test_a_websockets_frames_are_not_held() -> None:
    """Fails when a release of uvicorn no longer hands the transport on as `http_protocol` expects."""

    async def run() -> list[object]:
        transport = FakeTransport()
        config = uvicorn.Config(WebSocketEndpoint, ws="websockets-sansio", lifespan="off", log_config=None)
        config.load()
        state = ServerState()
        protocol = HttpProtocol(LIMITS, config, state, {})
        protocol.connection_made(transport)  # type: ignore[arg-type]
        protocol.data_received(
            b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        (websocket,) = state.connections
        assert websocket.transport is transport
        while not transport.done:
            await asyncio.sleep(0)
        websocket.stop_keepalive()  # type: ignore[union-attr]
        websocket.connection_lost(None)
        await asyncio.gather(*state.tasks)
        return transport.done

    accepted, *_ = asyncio.run(run())
    assert accepted.startswith(b"HTTP/1.1 101 ")  # type: ignore[attr-defined]
