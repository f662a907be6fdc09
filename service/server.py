"""uvicorn, with a drain: SIGTERM turns /readyz false, accepted requests are answered, and the process exits with 0.

A lost engine ends it as well: its requests are failed, their replies written, and `Service.broken` says why."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import signal
import socket
from collections.abc import Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.settings import Settings
from service.state import Service

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 75  # robots pause between episodes; most load balancers keep connections for 60
BACKSTOP_SECONDS = 5  # for writing replies, once the scheduler's own drain has ended


class Server(uvicorn.Server):
    """Serves `create_app`'s application on sockets that are bound already."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=math.ceil(settings.drain_seconds) + BACKSTOP_SECONDS,
            )
        )
        self._service: Service = app.state.service
        self._service.on_broken = self._leave

    @property
    def broken(self) -> bool:
        """Was the engine lost?"""
        return self._service.broken is not None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        self._announcement = asyncio.ensure_future(self._announce())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain beside uvicorn's own wait for open connections: those wait for the drain's replies."""
        stopping = asyncio.ensure_future(self._service.stop())
        await super().shutdown(sockets)
        await stopping
        self._announcement.cancel()

    def _leave(self) -> None:
        self.should_exit = True  # uvicorn looks at it ten times a second, then shuts down as for a signal

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        log.info("%s: draining", signal.Signals(sig).name)
        self._service.begin_drain()
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but for its end: that raises the signal again, and a drained server would not exit with 0."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def _announce(self) -> None:
        await self._service.settled()
        # What is loaded by now lives as long as the process. Walking torch's objects again and again in search of
        # garbage cost 10 to 25 % of a request's CPU time (0.26 ms against 0.23), in pauses that fall on someone.
        gc.collect()
        gc.freeze()
        if self._service.state == "ready":
            for model in self._service.catalog:
                log.info("ready: %s (version %.12s) on %s", model.spec.name, model.version, model.engine)
