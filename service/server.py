"""uvicorn, with signals: SIGTERM and SIGINT drain, SIGHUP reloads.

A drain has three steps. /readyz turns false at once. For `drain_grace_seconds` new requests are still served, since
load balancers need that long to notice; this step is left out after SIGINT, where a person waits. Then new requests get
a 503, what was accepted is answered, and the process exits with 0. A second signal ends it at once.

A lost engine ends the process as well: its requests fail, their replies are written, and `Lifecycle.broken` says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Coroutine, Iterator
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE

from service.runtime import Runtime
from service.settings import Settings
from service.web import ConnectionLimits, HttpProtocol, Websockets

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 75  # robots pause between episodes; most load balancers keep connections for 60 s
OTHER_FILES = 128  # that the process may have open beside connections: policies, recordings, libraries
BACKSTOP_SECONDS = 5  # for writing replies, after the scheduler's own drain
# The longest wait of the worker thread for the interpreter's lock while the event loop is busy. Python's default is
# 5 ms, as long as a batch. Measured with one compute thread, this value against the default: goodput at three times
# saturation (runs of 5 s) 605 to 610 requests/s against 520 to 596; p99 of a single client at (32, 4) 1.6 to 1.8 ms
# against 1.9 to 2.2. It costs 64 clients at (1, 1) 5 % of their requests/s.
SWITCH_SECONDS = 0.001
DRAIN_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def _check_tls(settings: Settings) -> None:
    """Raises OSError with one line if uvicorn could not serve with the certificate and its key."""
    if settings.ssl_certfile is None or settings.ssl_keyfile is None:
        return
    for name, path in [("ssl_certfile", settings.ssl_certfile), ("ssl_keyfile", settings.ssl_keyfile)]:
        try:
            path.open("rb").close()
        except OSError as error:
            raise OSError(f"{name}: {path} can't be read: {error.strerror or error}") from None
    try:
        # With a passphrase, though a wrong one: without, OpenSSL would ask for it on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, "none")
    except ssl.SSLError as error:
        raise OSError(
            "ssl_certfile, ssl_keyfile: expected a certificate and its own private key without a passphrase, as PEM, "
            f"in {settings.ssl_certfile} and {settings.ssl_keyfile}: {error.reason or error}"
        ) from None


def _room_for(connections: int) -> int:
    """Have the process may open as many files as `connections` take. Returns how many of them there is room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        connections = max(1, allowed - OTHER_FILES)
        log.warning("max_connections is %d, as this process may open %d files", connections, allowed)
    return connections


def _quiet(record: logging.LogRecord) -> bool:
    """Is it more than a line about one client? Such a line may have what that sent, and is for debugging: at any other
    level, clients could fill the log.
    """
    if "websockets" in record.pathname:
        # The last is what uvicorn says of a websocket that was refused by an HTTP reply.
        said = str(record.msg)
        of_client = record.levelno <= logging.INFO or "from client" in said or "without completing handshake" in said
    else:
        of_client = "httptools" in record.pathname and record.levelno <= logging.WARNING
    return not of_client or log.isEnabledFor(logging.DEBUG)


class Server(uvicorn.Server):
    """Serves `create_app`'s application on sockets that are bound already. The first is HTTP's, a second openpi's."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        _check_tls(settings)
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http="httptools",  # a connection's protocol comes from `_connection`
                ws="websockets-sansio",
                ws_max_size=settings.max_body_bytes,
                ws_per_message_deflate=False,
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # nothing here asks who the client is
                ssl_certfile=settings.ssl_certfile,
                ssl_keyfile=settings.ssl_keyfile,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=BACKSTOP_SECONDS,
            )
        )
        self._runtime: Runtime = app.state.runtime
        self._websockets: Websockets = app.state.websockets
        self._runtime.on_broken = lambda: self._begin(self._drain(0.0))
        self._grace_seconds = settings.drain_grace_seconds
        metrics = self._runtime.metrics
        self._limits = ConnectionLimits(
            _room_for(settings.max_connections), settings.request_seconds, metrics.count_closed
        )
        metrics.connections.set_function(lambda: len(self.server_state.connections))
        self._started = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself holds tasks weakly

    @property
    def broken(self) -> bool:
        """Was the engine lost?"""
        return self._runtime.lifecycle.broken is not None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        sys.setswitchinterval(SWITCH_SECONDS)
        log_of_uvicorn = logging.getLogger("uvicorn.error")
        log_of_uvicorn.addFilter(_quiet)
        try:
            await super().serve(sockets)
        finally:
            log_of_uvicorn.removeFilter(_quiet)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's, for sockets that are bound, with our protocol and a limit for handshakes of TLS."""
        listeners = sockets or []
        addresses = [listener.getsockname()[:2] for listener in listeners]
        self._websockets.port = addresses[1][1] if len(addresses) > 1 else None
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        tls = self.config.ssl
        handshake = None if tls is None else self._limits.request_seconds
        self.servers = [
            await self._loop.create_server(
                self._connection, sock=listener, ssl=tls, ssl_handshake_timeout=handshake, backlog=self.config.backlog
            )
            for listener in listeners
        ]
        self.started = True
        schemes = ("https", "wss") if self.config.is_ssl else ("http", "ws")
        for scheme, (host, port) in zip(schemes, addresses, strict=False):
            log.info("listening on %s://%s:%d", scheme, f"[{host}]" if ":" in host else host, port)
        self._started.set()
        self._begin(self._announce())

    def _connection(self) -> HttpProtocol:
        return HttpProtocol(self._limits, self.config, self.server_state, self.lifespan.state, self._loop)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for task in self._tasks:
            task.cancel()
        gc.unfreeze()  # otherwise the interpreter's last collection skips models, and nanobind reports them as leaks

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        for number in DRAIN_SIGNALS:
            signal.signal(number, signal.SIG_DFL)  # a second signal ends the process, even if the interpreter is busy
        log.info("%s: draining", signal.Signals(sig).name)
        self._runtime.lifecycle.draining = True
        grace = self._grace_seconds if sig == signal.SIGTERM else 0.0
        self._loop.call_soon_threadsafe(lambda: self._begin(self._drain(grace)))

    def handle_hangup(self, sig: int, frame: FrameType | None) -> None:
        """Reload every model."""
        log.info("SIGHUP: reloading")
        self._loop.call_soon_threadsafe(lambda: self._begin(self._runtime.reload_all()))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Like uvicorn's, which raises the signal again at the end; a drained server would then not exit with 0."""
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
            await self._runtime.stop()
        finally:
            self.should_exit = True

    async def _announce(self) -> None:
        await self._runtime.lifecycle.settled()
        # What is loaded by now lives as long as the process. Garbage collection that walks torch's objects again and
        # again cost 10 to 25 % of a request's CPU time (0.26 ms against 0.23), in pauses of the event loop.
        gc.collect()
        gc.freeze()
        if self._runtime.lifecycle.state == "ready":
            for model in self._runtime.catalog:
                log.info("ready: %s (version %.12s) on %s", model.name, model.version, model.engine.name)
