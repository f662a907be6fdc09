"""Client connections of load generators: one request at a time; they count unsolicited answers. Here is HTTP/1.1's."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import httptools

RawT = TypeVar("RawT")


@dataclass(frozen=True)
class Response:
    """An HTTP response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def encode_request(method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a request. The content type is JSON unless `headers` sets another."""
    lines = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in {**lines, **(headers or {})}.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


class RequestConnection(ABC, Generic[RawT]):
    """A connection that has one request in flight at most, in any protocol. `RawT` is what a server answers with.

    Attributes:
        surplus: how many answers came without a request.
    """

    def __init__(self) -> None:
        self.surplus = 0
        self._waiting: Callable[[RawT | ConnectionError], None] | None = None
        self._open = True

    @property
    def usable(self) -> bool:
        """Whether it can send a request now: open, and without one in flight."""
        return self._open and self._waiting is None

    def ask(self, request: bytes, answered: Callable[[RawT | ConnectionError], None]) -> None:
        """Send `request`. `answered` is called once, with the answer, or with a ConnectionError if there is none."""
        assert self._waiting is None
        if self._open:
            self._waiting = answered
            self._write(request)
        else:
            answered(ConnectionResetError("closed by the server"))

    def send(self, request: bytes) -> asyncio.Future[RawT]:
        """Send `request`. Returns a future of the answer, or of a ConnectionError."""
        waiting: asyncio.Future[RawT] = asyncio.get_running_loop().create_future()

        def answered(answer: RawT | ConnectionError) -> None:
            if waiting.done():  # cancelled
                return
            if isinstance(answer, ConnectionError):
                waiting.set_exception(answer)
            else:
                waiting.set_result(answer)

        self.ask(request, answered)
        return waiting

    @abstractmethod
    async def abandon(self, request: bytes, whole: bool) -> None:
        """Send `request`, or if not `whole` all but its end, and disconnect without waiting for the answer."""

    @abstractmethod
    def close(self) -> None:
        """Abort the connection, even with a request in flight."""

    @abstractmethod
    def _write(self, request: bytes) -> None:
        """Send `request`."""

    def _received(self, answer: RawT) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            self.surplus += 1
        else:
            waiting(answer)

    def _fail(self, error: ConnectionError) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting(error)


class StreamConnection(RequestConnection[RawT], asyncio.Protocol):
    """One over TCP."""

    def __init__(self) -> None:
        super().__init__()
        self._transport: asyncio.Transport | None = None

    async def abandon(self, request: bytes, whole: bool) -> None:
        if self._open and self._transport is not None:
            encoded = self._encoded(request)
            self._transport.write(encoded if whole else encoded[:-20])
            await asyncio.sleep(0)  # so that the bytes are sent before the connection is closed
        self.close()

    def close(self) -> None:
        self._open = False
        if self._transport is not None:
            self._transport.abort()

    def _write(self, request: bytes) -> None:
        assert self._transport is not None
        self._transport.write(self._encoded(request))

    def _encoded(self, request: bytes) -> bytes:
        """`request` as it goes over the stream."""
        return request

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")  # uvloop's is not a subclass
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, error: Exception | None) -> None:
        self._open = False
        self._fail(ConnectionResetError(str(error or "closed by the server")))


StreamT = TypeVar("StreamT", bound=StreamConnection[Any])


class Connection(StreamConnection[Response]):
    """A connection of HTTP/1.1, made by `connect`."""

    def __init__(self) -> None:
        super().__init__()
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if self._waiting is None:
                self.surplus += 1
            self._fail(ConnectionError(f"not HTTP: {error}"))
            self.close()

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
        self._received(Response(status, self._headers, b"".join(self._body)))


async def connect(url: str) -> Connection:
    """Connect to the host and port of `url`. Raises OSError."""
    return await connect_stream(Connection, url)


async def connect_stream(make: Callable[[], StreamT], url: str) -> StreamT:
    """Connect what `make` makes to the host and port of `url`. Raises OSError."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    _, connection = await asyncio.get_running_loop().create_connection(make, address.hostname, address.port)
    return connection
