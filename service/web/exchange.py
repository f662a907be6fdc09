"""One exchange with a client over ASGI: headers, body and request id come in, a `Reply` goes out.

POST /act uses it in place of Starlette's request and response objects. With what surrounds them these cost 0.1 ms of
CPU time a request, as much as everything else that the event loop does for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.errors import ClientGone, InvalidRequest, PayloadTooLarge, RequestTimeout, UnsupportedMediaType
from service.protocol import MAX_REQUEST_ID, REQUEST_ID, codec, new_request_id

REQUEST_ID_HEADER = "X-Request-ID"
TOO_SLOW = "sorl.too_slow"
"""In the scope of a request whose body has not come in time."""
_ID = b"x-request-id"

_TYPES = {codec.JSON: codec.JSON, codec.MSGPACK: codec.MSGPACK, "application/x-msgpack": codec.MSGPACK}


def id_header(request_id: str) -> tuple[bytes, bytes]:
    """The header that echoes a request id."""
    return _ID, request_id.encode("ascii")


@dataclass(frozen=True)
class Reply:
    """A reply, encoded."""

    status: int
    media_type: str
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]

    async def send(self, send: Send) -> None:
        """Send it as ASGI messages."""
        headers = [
            (b"content-type", self.media_type.encode()),
            (b"content-length", b"%d" % len(self.body)),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})

    def response(self) -> Response:
        """The same as a Starlette response."""
        response = Response(self.body, self.status, media_type=self.media_type)
        response.raw_headers += self.headers
        return response


class Exchange:
    """One request whose body has not been read yet."""

    __slots__ = ("_given", "_receive", "_scope", "headers")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))  # the first of repeated ones
        self._scope = scope
        self._receive = receive
        self._given: str | None = None

    def header(self, name: bytes) -> str | None:
        """A header by its lower-case name."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def request_id(self) -> str:
        """The id that the body or the header gave, or a new one. It no longer changes once it was read."""
        if self._given is None:
            given = self.header(_ID)
            self._given = given if given is not None and REQUEST_ID.fullmatch(given) else new_request_id()
        return self._given

    @request_id.setter
    def request_id(self, given: str) -> None:
        self._given = given

    def check_request_id(self) -> None:
        """Raises InvalidRequest for a header that can't be echoed, rather than answering under another id."""
        given = self.header(_ID)
        if given is not None and not REQUEST_ID.fullmatch(given):
            raise InvalidRequest(
                f"{REQUEST_ID_HEADER}: expected 1 to {MAX_REQUEST_ID} printable ASCII characters without spaces",
                field=REQUEST_ID_HEADER,
            )

    def media_type(self) -> str:
        """`codec.JSON` or `codec.MSGPACK`.

        Raises:
            UnsupportedMediaType: another Content-Type, none, or a compressed body.
        """
        given = self.header(b"content-type") or ""
        media_type = _TYPES.get(given) or _TYPES.get(given.partition(";")[0].strip().lower())
        if media_type is None:
            raise UnsupportedMediaType(
                f"Content-Type: expected {codec.JSON} or {codec.MSGPACK}, found {given[:80]!r}", field="Content-Type"
            )
        self.check_uncompressed()
        return media_type

    def check_uncompressed(self) -> None:
        """Raises UnsupportedMediaType for a compressed body."""
        encoding = self.header(b"content-encoding")
        if encoding is not None and encoding.lower() != "identity":
            raise UnsupportedMediaType(
                f"Content-Encoding: expected no compression, found {encoding[:80]!r}", field="Content-Encoding"
            )

    def reply_type(self, media_type: str) -> str:
        """The reply's media type: the request's own, unless Accept names only the other one."""
        accept = self.header(b"accept")
        if accept is None or accept == "*/*":
            return media_type
        ranges = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
        if ranges & {media_type, "*/*", "application/*"}:
            return media_type
        return next((known for name, known in _TYPES.items() if name in ranges), media_type)

    async def read_body(self, max_bytes: int) -> bytes:
        """The body. Never more than `max_bytes` and one chunk of it are held.

        Raises:
            PayloadTooLarge: its Content-Length is larger, or more than `max_bytes` have come.
            RequestTimeout: the rest did not come in time, as whoever receives it says by `TOO_SLOW`.
            ClientGone: the client hung up before the end.
        """
        declared = self.header(b"content-length") or ""
        if declared.isdecimal() and int(declared) > max_bytes:
            raise _too_large(max_bytes)
        chunks, size = [], 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("the client hung up before its request was complete", reason="receiving")
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > max_bytes:
                raise _too_large(max_bytes)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)
            if TOO_SLOW in self._scope:
                raise RequestTimeout(f"the body did not come in time (request_seconds); {size} bytes of it did")

    async def hung_up(self) -> None:
        """Returns when the client has hung up. After the body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is longer than {max_bytes} bytes (max_body_bytes)")
