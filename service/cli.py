"""`sorl-serve`: settings -> app -> uvicorn. A user's mistake is one line on stderr, never a traceback."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from typing import TYPE_CHECKING

from kernels.commands import command
from service.settings import Settings, load_settings

if TYPE_CHECKING:
    from service.server import Server

log = logging.getLogger(__name__)

BROKEN = 3


@command("sorl-serve")
def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. The exit status: 0, 1 if serving is impossible, 2 for a wrong setting,
    3 when the engine was lost (`stuck_seconds`).
    """
    # OpenMP's threads must not spin beside the event loop: a 0.7 ms layer took 16 ms next to a busy process, and 1.5 ms
    # with this setting. libgomp reads it once, when torch is loaded, so it comes before the imports below.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        settings = load_settings(arguments)
    except ValueError as error:
        return _refuse(error, 2)

    from service.observability import configure_logging

    configure_logging(settings.log_level, settings.log_format)
    return _serve(settings)


def _serve(settings: Settings) -> int:
    from kernels.backend import BackendUnavailable, DeviceFailure
    from policy import CheckpointError
    from service.access import KeysError
    from service.models import CatalogError
    from service.observability import TracingUnavailable

    try:
        server = _server(settings)
        listeners = [_bind(settings.host, port) for port in (settings.port, settings.openpi_port) if port is not None]
    except (
        KeysError, CheckpointError, CatalogError, BackendUnavailable, DeviceFailure, TracingUnavailable, OSError
    ) as error:  # fmt: skip
        return _refuse(error, 1)
    with contextlib.ExitStack() as bound:
        for listener in listeners:
            bound.enter_context(listener)
        server.run(sockets=listeners)
    if server.broken:
        # At a normal exit the interpreter would wait for, or crash on, a thread that is still inside the engine.
        logging.shutdown()
        os._exit(BROKEN)
    return 0


def _server(settings: Settings) -> Server:
    from service.app import create_app
    from service.server import Server

    return Server(create_app(settings), settings)


def _bind(host: str, port: int) -> socket.socket:
    """Raises OSError with the address in its message."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((str(address[0]), int(address[1])), family=family)
    except OSError as error:
        raise OSError(f"can't listen on {host}:{port}: {error.strerror or error}") from None


def _refuse(error: Exception, status: int) -> int:
    print(f"sorl-serve: error: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
