"""Protocol Buffers' wire format, as much of it as the Open Inference Protocol takes."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

VARINT, DOUBLE, LENGTH = 0, 1, 2
"""Wire types."""


def field(number: int, value: bool | int | float | str | bytes) -> bytes:
    """One field. A float is a double; a message is its bytes."""
    if isinstance(value, int):
        return varint(number << 3 | VARINT) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | DOUBLE) + struct.pack("<d", value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | LENGTH) + varint(len(content)) + content


def packed(number: int, values: Iterable[int]) -> bytes:
    """A repeated field of integers."""
    return field(number, b"".join(map(varint, values)))


def varint(value: int) -> bytes:
    """An integer of up to 64 bits, seven bits a byte; a negative one is its two's complement."""
    left, found = value % 2**64, bytearray()
    while left > 0x7F:
        found.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*found, left])


def fields(message: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """The fields of a message, in its order, as (number, value). A varint is not negative.

    Raises:
        ValueError: it ends within a field, or has a field of a type that is not read here.
    """
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            whole, at = _read_varint(message, at)
            yield number, whole
            continue
        if kind not in (DOUBLE, LENGTH):
            raise ValueError(f"field {number}: wire type {kind}")
        size, at = (8, at) if kind == DOUBLE else _read_varint(message, at)
        content, at = message[at : at + size], at + size
        if at > len(message):
            raise ValueError(f"field {number} ends after the message")
        yield number, struct.unpack("<d", content)[0] if kind == DOUBLE else content


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where it ends."""
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number has no end")
