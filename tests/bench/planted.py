"""A scripted HTTP server in the test's event loop, which can also send faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httptools


@dataclass(frozen=True)
class Request:
    """A request as received; `number` counts from 0 over all connections."""

    number: int
    headers: dict[str, str]
    body: bytes


Answering = Callable[[Request], Awaitable[bytes]]
"""The bytes of the reply; b"" closes the connection without one."""


def reply(fields: dict[str, Any], status: int = 200, **headers: str) -> bytes:
    """The bytes of a whole reply."""
    body = json.dumps(fields).encode()
    lines = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} Planted\r\n{head}\r\n".encode() + body


class _Parser:
    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


@asynccontextmanager
async def planted_server(answering: Answering) -> AsyncIterator[str]:
    """Context manager: runs the server and yields its URL. Each connection takes one request at a time."""
    count = 0
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        task.add_done_callback(serving.discard)
        try:
            while True:
                parsed = _Parser()
                parser = httptools.HttpRequestParser(parsed)
                while not parsed.complete:
                    if not (data := await reader.read(65536)):
                        return
                    parser.feed_data(data)
                count += 1
                if not (answer := await answering(Request(count - 1, parsed.headers, parsed.body))):
                    return
                writer.write(answer)
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass  # cancelled at the end of the block; asyncio's streams would log an error
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"
    finally:
        server.close()
        for task in [*serving]:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
