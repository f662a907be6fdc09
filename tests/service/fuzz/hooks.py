"""What Schemathesis does not know: msgpack."""

from __future__ import annotations

from typing import Any

import msgpack  # type: ignore[import-untyped, unused-ignore]
import schemathesis


@schemathesis.serializer("application/msgpack")
def pack(context: Any, value: Any) -> bytes:
    """Integers beyond 64 bits, which JSON has and msgpack has not, as floats."""
    packed: bytes = msgpack.packb(_within_64_bits(value), default=str, unicode_errors="surrogatepass")
    return packed


@schemathesis.deserializer("application/msgpack")
def unpack(context: Any, response: Any) -> Any:
    return msgpack.unpackb(response.content)


def _within_64_bits(value: Any) -> Any:
    if isinstance(value, dict):
        return {_within_64_bits(key): _within_64_bits(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_within_64_bits(item) for item in value]
    return float(value) if type(value) is int and not -(2**63) <= value < 2**64 else value
