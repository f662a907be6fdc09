"""uvicorn's HTTP protocol, but the head and body of a reply leave in one packet.

uvicorn writes them one after the other: two system calls of 20 us each, and a client that wakes up twice. Here both
writes are held until the event loop's next turn and leave as one.

This relies on three internals of uvicorn: `HttpToolsProtocol.connection_made` receives the transport, replies are
written with `transport.write`, and `handle_websocket_upgrade` hands the transport on. pyproject.toml pins uvicorn and
httptools below the next release. Tests fail when replies no longer come in one packet or frames no longer at once.
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


class JoiningProtocol(HttpToolsProtocol):
    """For `uvicorn.Config(http=...)`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(JoinedWrites(transport, self.loop))  # type: ignore[arg-type]

    def handle_websocket_upgrade(self) -> None:
        """A frame is one write already. Not holding it saves 6 of the 39 us that an echo takes."""
        self.transport = self.transport.released()  # type: ignore[attr-defined]
        super().handle_websocket_upgrade()
