"""uvicorn, with signals: SIGTERM and SIGINT drain, SIGHUP reloads.

A drain: /readyz turns false at once; for `drain_grace_seconds` new requests are still served, as load balancers need
that long to hear of it (not after SIGINT: a person waits); then new ones get a 503 while what was accepted is answered;
the process exits with 0. A second signal ends it at once.

A lost engine ends it as well: its requests are failed, their replies written, and `Service.broken` says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from service.runtime import Service
from service.settings import Settings
from service.web.http_protocol import JoiningProtocol

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 75  # robots pause between episodes; most load balancers keep connections for 60
BACKSTOP_SECONDS = 5  # for writing replies, once the scheduler's own drain has ended
# How long the engine's thread waits for the interpreter's lock while the event loop is busy, at most; Python's own is
# 5 ms, a whole slice. Goodput at three times saturation (one compute thread, runs of 5 s): 605 to 610 requests/s,
# and 520 to 596 with Python's; p99 of a single client at (32, 4) 1.6 to 1.8 ms, and 1.9 to 2.2. It costs 64 clients at
# (1, 1) a twentieth of their requests/s.
SWITCH_SECONDS = 0.001
DRAIN_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Server(uvicorn.Server):
    """Serves `create_app`'s application on sockets that are bound already."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=JoiningProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # nothing here asks who the client is
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=BACKSTOP_SECONDS,
            )
        )
        self._service: Service = app.state.service
        self._service.on_broken = lambda: self._begin(self._drain(0.0))
        self._grace_seconds = settings.drain_grace_seconds
        self._started = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself holds tasks weakly

    @property
    def broken(self) -> bool:
        """Was the engine lost?"""
        return self._service.broken is not None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        sys.setswitchinterval(SWITCH_SECONDS)
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        self._started.set()
        self._begin(self._announce())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for task in self._tasks:
            task.cancel()
        gc.unfreeze()  # or the interpreter's last collection passes models by, and nanobind reports them as leaks

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        for number in DRAIN_SIGNALS:
            signal.signal(number, signal.SIG_DFL)  # the second one's effect, however busy the interpreter is
        log.info("%s: draining", signal.Signals(sig).name)
        self._service.begin_drain()
        grace = self._grace_seconds if sig == signal.SIGTERM else 0.0
        self._loop.call_soon_threadsafe(lambda: self._begin(self._drain(grace)))

    def handle_hangup(self, sig: int, frame: FrameType | None) -> None:
        """Reload every model."""
        log.info("SIGHUP: reloading")
        self._loop.call_soon_threadsafe(lambda: self._begin(self._service.reload_all()))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but for its end: that raises the signal again, and a drained server would not exit with 0."""
        handlers = dict.fromkeys(DRAIN_SIGNALS, self.handle_exit) | {signal.SIGHUP: self.handle_hangup}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drain(self, grace: float) -> None:
        try:
            await self._started.wait()  # a signal may come before there is a worker to drain
            await asyncio.sleep(grace)
            await self._service.stop()
        finally:
            self.should_exit = True

    async def _announce(self) -> None:
        await self._service.settled()
        # What is loaded by now lives as long as the process. Walking torch's objects again and again in search of
        # garbage cost 10 to 25 % of a request's CPU time (0.26 ms against 0.23), in pauses that fall on someone.
        gc.collect()
        gc.freeze()
        if self._service.state == "ready":
            for model in self._service.catalog:
                log.info("ready: %s (version %.12s) on %s", model.name, model.version, model.engine.name)
