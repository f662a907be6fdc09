"""Request bodies as they come in: their media type, their size, and the type the reply should have."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request

from service import codec
from service.errors import ClientGone, PayloadTooLarge, UnsupportedMediaType

_TYPES = {codec.JSON: codec.JSON, codec.MSGPACK: codec.MSGPACK, "application/x-msgpack": codec.MSGPACK}


def media_type_of(request: Request) -> str:
    """`codec.JSON` or `codec.MSGPACK`.

    Raises:
        UnsupportedMediaType: another Content-Type, none, or a compressed body.
    """
    given = request.headers.get("content-type", "")
    media_type = _TYPES.get(given.partition(";")[0].strip().lower())
    if media_type is None:
        raise UnsupportedMediaType(
            f"Content-Type: expected {codec.JSON} or {codec.MSGPACK}, found {given[:80]!r}", field="Content-Type"
        )
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedMediaType(
            f"Content-Encoding: expected no compression, found {encoding[:80]!r}", field="Content-Encoding"
        )
    return media_type


def reply_type_of(request: Request, media_type: str) -> str:
    """The reply's media type: the request's own, unless Accept names only the other one."""
    accept = request.headers.get("accept")
    if accept is None:
        return media_type
    ranges = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    if ranges & {media_type, "*/*", "application/*"}:
        return media_type
    return next((known for name, known in _TYPES.items() if name in ranges), media_type)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body, of which never more than `max_bytes` and one chunk are held.

    Raises:
        PayloadTooLarge: by its Content-Length, without reading any of it, or once more than `max_bytes` have come.
        ClientGone: it hung up midway.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > max_bytes:
                raise _too_large(max_bytes)
            chunks.append(chunk)
    except ClientDisconnect:
        raise ClientGone("the client hung up before its request was complete", reason="receiving") from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is longer than {max_bytes} bytes (max_body_bytes)")
