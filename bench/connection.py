"""A minimal HTTP/1.1 client connection for load generators: one request at a time; it counts unsolicited responses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httptools


@dataclass(frozen=True)
class Response:
    """An HTTP response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


Answered = Callable[[Response | ConnectionError], None]


def encode_request(method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a request. The content type is JSON unless `headers` sets another."""
    lines = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in {**lines, **(headers or {})}.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


class Connection(asyncio.Protocol):
    """A connection, made by `connect`.

    Attributes:
        surplus: how many responses came without a request.
    """

    def __init__(self) -> None:
        self.surplus = 0
        self._parser = httptools.HttpResponseParser(self)
        self._waiting: Answered | None = None
        self._transport: asyncio.Transport | None = None
        self._open = True

    @property
    def usable(self) -> bool:
        """Whether it can send a request now: open, and without one in flight."""
        return self._open and self._waiting is None

    def ask(self, request: bytes, answered: Answered) -> None:
        """Send `request`. `answered` is called once, with the response, or with a ConnectionError if there is none."""
        assert self._waiting is None
        assert self._transport is not None
        if self._open:
            self._waiting = answered
            self._transport.write(request)
        else:
            answered(ConnectionResetError("closed by the server"))

    def send(self, request: bytes) -> asyncio.Future[Response]:
        """Send `request`. Returns a future of the response, or of a ConnectionError."""
        waiting: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

        def answered(answer: Response | ConnectionError) -> None:
            if waiting.done():  # cancelled
                return
            if isinstance(answer, Response):
                waiting.set_result(answer)
            else:
                waiting.set_exception(answer)

        self.ask(request, answered)
        return waiting

    def close(self) -> None:
        """Abort the connection, even with a request in flight."""
        self._open = False
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")  # uvloop's is not a subclass
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if self._waiting is None:
                self.surplus += 1
            self._fail(ConnectionError(f"not HTTP: {error}"))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._open = False
        self._fail(ConnectionResetError(str(error or "closed by the server")))

    # httptools

    def on_message_begin(self) -> None:
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # an interim response; the final one follows
            return
        self._open = self._open and bool(self._parser.should_keep_alive())
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            self.surplus += 1
        else:
            waiting(Response(status, self._headers, b"".join(self._body)))

    def _fail(self, error: ConnectionError) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting(error)


async def connect(url: str) -> Connection:
    """Connect to the host and port of `url`. Raises OSError."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    _, connection = await asyncio.get_running_loop().create_connection(Connection, address.hostname, address.port)
    return connection
