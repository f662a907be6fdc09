"""`DelayedLink`: a network of a given round-trip time on this machine, for `sorl-drive --latency-ms`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from sorl_client import parameters

CHUNK = 65_536  # bytes read at once


class DelayedLink:
    """Context manager: relays TCP connections to the server at `url`, each way half of `latency_ms` later.

    Within the context `url` is the relay's address. Bandwidth is not limited, and the order of bytes is kept. A
    connection that is opened costs one delay on a real network too, so its first bytes wait for another.

    Raises ValueError for a `url` that is not http://HOST[:PORT]: TLS would not accept the relay's name; and
    InvalidArgument, which is one too, for a `latency_ms` out of range.
    """

    def __init__(self, url: str, latency_ms: float) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"expected http://HOST:PORT to delay, found {url!r}")
        self._parts = parts
        self._half_s = parameters.LATENCY_MS("latency_ms", latency_ms) / 2e3
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sorl-delayed-link", daemon=True)
        self._relays: set[asyncio.Task[None]] = set()

    def __enter__(self) -> DelayedLink:
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._relay, "127.0.0.1", 0))
        port = self._server.sockets[0].getsockname()[1]
        self.url = urlunsplit(self._parts._replace(netloc=f"127.0.0.1:{port}"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _stop(self) -> None:
        self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        task.add_done_callback(self._relays.discard)
        try:
            await asyncio.sleep(2 * self._half_s)  # the handshake of TCP
            host, port = self._parts.hostname, self._parts.port or 80
            there, back = await asyncio.open_connection(host, port)
            try:
                await asyncio.gather(self._copy(reader, back), self._copy(there, writer))
            finally:
                back.close()
        except (OSError, asyncio.CancelledError):
            pass  # an end is gone, or the link: the client sees its connection end. asyncio would log what is raised
        finally:
            writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Write what `reader` brings, each piece half a round trip after it came; then the end."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, piece = await pieces.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                if not piece:
                    with suppress(OSError):
                        writer.write_eof()
                    return
                writer.write(piece)
                await writer.drain()

        delivering = asyncio.ensure_future(deliver())
        try:
            while piece := await reader.read(CHUNK):
                pieces.put_nowait((self._loop.time() + self._half_s, piece))
            pieces.put_nowait((self._loop.time() + self._half_s, b""))
            await delivering
        finally:
            delivering.cancel()
