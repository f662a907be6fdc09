"""Networks and servers of other kinds than the good one: scripts of answers, and sockets that never finish theirs."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import msgpack

OBSERVATION = [0.5, -0.5]


class Script:
    """A network that answers each attempt with the next entry, then with the last one. Records the fields sent."""

    def __init__(self, *entries: Any) -> None:
        self.entries = list(entries)
        self.sent: list[Any] = []
        self.timeouts: list[dict[str, float]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.timeouts.append(request.extensions["timeout"])
        self.sent.append(msgpack.unpackb(request.content) if request.content else None)
        entry = self.entries.pop(0) if len(self.entries) > 1 else self.entries[0]
        entry = entry(request, self.sent[-1]) if callable(entry) else entry
        if isinstance(entry, Exception):
            raise entry
        # A response can be read only once, and an entry may be repeated.
        return httpx.Response(entry.status_code, headers=entry.headers, content=entry.content)


def problem(
    status: int, code: str | None = None, headers: dict[str, str] | None = None, **members: Any
) -> httpx.Response:
    members = members | ({"code": code} if code else {})
    return httpx.Response(
        status,
        content=json.dumps(members).encode(),
        headers={"Content-Type": "application/problem+json"} | (headers or {}),
    )


BUSY = problem(503, "overloaded", detail="queue is full")
CUT = httpx.RemoteProtocolError("server disconnected")


@contextlib.contextmanager
def trickling(start: bytes = b"") -> Iterator[str]:
    """The URL of a server that takes connections, sends `start`, and then a byte every 10 ms, for ever.

    Each wait for a part of its reply is short, and the reply never ends.
    """
    stopped = threading.Event()
    threads = []
    listener = socket.create_server(("127.0.0.1", 0))

    def talk(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(start)
            while not stopped.wait(0.01):
                connection.sendall(b"x")

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threads.append(threading.Thread(target=talk, args=(connection,)))
                threads[-1].start()

    threads.append(threading.Thread(target=accept))
    threads[0].start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stopped.set()
        listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        listener.close()
        for thread in threads:
            thread.join()


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """The URL of a server that is as if stopped by SIGSTOP: the kernel takes connections, and nothing answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
