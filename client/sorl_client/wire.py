"""Encode requests and decode replies: MessagePack with binary arrays, or JSON with lists. Pure functions.

An array in MessagePack is a map with four binary keys, the format of openpi's clients:
{b"__ndarray__": true, b"data": C-order bytes, b"dtype": "<f4", b"shape": [...]}.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal

import msgpack  # type: ignore[import-untyped, unused-ignore]
import numpy as np
import numpy.typing as npt

MediaType = Literal["application/msgpack", "application/json"]
MSGPACK: MediaType = "application/msgpack"
JSON: MediaType = "application/json"
EXACT_IN_JSON = 2**53  # larger integers lose digits in JSON readers that use doubles
ARRAY_KINDS = "biuf"


def encode(value: Any, media_type: MediaType = MSGPACK) -> bytes:
    """Encode `value`: nested mappings, lists, plain and NumPy scalars, and NumPy arrays of numbers or booleans.

    In JSON, arrays become nested lists, and integers above 2^53 become decimal strings.
    Raises TypeError for other types, and ValueError for non-finite numbers in JSON.
    """
    if media_type == MSGPACK:
        packed: bytes = msgpack.packb(value, default=_pack)
        return packed
    return json.dumps(_plain(value), allow_nan=False, separators=(",", ":")).encode()


def decode(body: bytes, media_type: str) -> Any:
    """Decode `body`. Arrays are copies, so they are writable.

    Raises ValueError if the bytes are not valid `media_type`, an array is malformed, or the media type is unknown.
    """
    kind = media_type.split(";")[0].strip().lower()
    try:
        if kind == MSGPACK:
            return msgpack.unpackb(body, object_hook=_unpack)
        if kind == JSON or kind.endswith("+json"):
            return json.loads(body)
    except (TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"malformed {kind}: {error}") from error
    raise ValueError(f"unknown media type {media_type!r}")


def _pack(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in ARRAY_KINDS:
            raise TypeError(f"cannot send an array of {value.dtype}")
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": list(value.shape),
        }
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):  # msgpack knows dicts only
        return dict(value)
    raise TypeError(f"cannot send {type(value).__name__}")


def _unpack(entry: dict[Any, Any]) -> Any:
    keys = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in entry.items()}
    if "__ndarray__" in keys:
        return _array(keys)
    if "__npgeneric__" in keys:
        return _dtype(keys).type(keys["data"])
    return entry


def _array(entry: dict[str, Any]) -> npt.NDArray[Any]:
    dtype, data, shape = _dtype(entry), entry.get("data"), entry.get("shape")
    if not isinstance(data, bytes) or not isinstance(shape, list):
        raise ValueError("an array needs binary data and a list as its shape")
    if not all(type(size) is int and size >= 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{len(data)} bytes are not an array of {dtype} with shape {shape}")
    array: npt.NDArray[Any] = np.frombuffer(data, dtype).reshape(shape).copy()
    return array


def _dtype(entry: dict[str, Any]) -> np.dtype[Any]:
    name = entry.get("dtype")
    if not isinstance(name, str):
        raise ValueError("an array needs a dtype")
    dtype = np.dtype(name)
    if dtype.kind not in ARRAY_KINDS or dtype.shape:
        raise ValueError(f"arrays of {name!r} are not accepted")
    return dtype


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in ARRAY_KINDS:
            raise TypeError(f"cannot send an array of {value.dtype}")
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, int) and abs(value) > EXACT_IN_JSON:
        return str(value)
    return value
