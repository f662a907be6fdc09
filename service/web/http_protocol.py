"""uvicorn's HTTP protocol, but the head and body of a reply leave in one packet.

uvicorn writes them one after the other: two system calls of 20 us each, and a client that wakes up twice. Here both
writes are held until the event loop's next turn and leave as one.

This relies on two internals of uvicorn: `HttpToolsProtocol.connection_made` receives the transport, and replies are
written with `transport.write`. pyproject.toml pins uvicorn and httptools below the next release, and a test fails when
replies no longer come in one packet.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


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

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, []
            self._transport.write(b"".join(held))


class JoiningProtocol(HttpToolsProtocol):
    """For `uvicorn.Config(http=...)`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(JoinedWrites(transport, self.loop))  # type: ignore[arg-type]
