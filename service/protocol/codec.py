"""Bodies: bytes <-> plain Python and NumPy. What a field means is not known here (see `schemas`).

Arrays travel encoded. In JSON, json-numpy's form: {"__numpy__": base64, "dtype": "<f4", "shape": [2, 28]}. In msgpack,
openpi's: {b"__ndarray__": true, b"data": bytes, b"dtype": "<f4", b"shape": [2, 28]}, keys bin or str. Nothing here
can run code: dtypes are numbers only, and a length that differs from the shape is refused.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

import msgpack  # type: ignore[import-untyped, unused-ignore]
import numpy as np

from service.errors import InvalidRequest

JSON = "application/json"
MSGPACK = "application/msgpack"

_DTYPE = re.compile(r"[<>=|]?(?:f[248]|[iu][1248])|float(?:16|32|64)|u?int(?:8|16|32|64)")
_ARRAY_KEYS = {"__numpy__": {"__numpy__", "dtype", "shape"}, "__ndarray__": {"__ndarray__", "data", "dtype", "shape"}}


def decode(body: bytes, media_type: str) -> dict[str, Any]:
    """A request's body as a dict with str keys; encoded arrays inside are left as they are.

    Raises:
        InvalidRequest: not the promised format, not an object, or a key twice.
    """
    if not body:
        raise InvalidRequest("the body is empty: expected an object with at least 'observation'")
    value = _decode_json(body) if media_type == JSON else _decode_msgpack(body)
    if not isinstance(value, dict):
        raise InvalidRequest(f"expected an object with at least 'observation', found {_kind(value)}")
    return _unique([(_text(key), _scalar(item)) for key, item in value.items()])


def encode(value: dict[str, Any], media_type: str) -> bytes:
    """A reply's body. NumPy arrays become nested lists in JSON and encoded arrays in msgpack."""
    if media_type == JSON:
        return json.dumps(value, separators=(",", ":"), allow_nan=False, default=np.ndarray.tolist).encode()
    packed: bytes = msgpack.packb(value, default=_pack_array)
    return packed


def array_marker(value: dict[Any, Any]) -> str | None:
    """Which encoding of an array `value` claims to be, if any."""
    return next((name for name in _ARRAY_KEYS if name in value or name.encode() in value), None)


def decode_array(value: dict[Any, Any], field: str) -> np.ndarray:
    """An encoded array: a read-only view of the body's bytes, in the dtype and byte order it was sent in.

    Raises:
        InvalidRequest: naming `field`: unknown or missing keys, a dtype that isn't a number, bad base64, or data
            whose length is not what dtype and shape make it.
    """
    parts = {_text(key): item for key, item in value.items()}
    marker = array_marker(parts)
    if marker is None or len(parts) != len(value) or set(parts) != _ARRAY_KEYS[marker]:
        _refuse(field, "an encoded array with exactly the keys __numpy__ (or __ndarray__ and data), dtype, shape")
    dtype = _dtype(parts["dtype"], field)
    shape = _shape(parts["shape"], field)
    data = _base64(parts["__numpy__"], field) if marker == "__numpy__" else parts["data"]
    if not isinstance(data, bytes):
        _refuse(field, f"data as bytes, found {_kind(data)}")
    if len(data) != math.prod(shape) * dtype.itemsize:
        _refuse(field, f"{math.prod(shape) * dtype.itemsize} bytes for {dtype.str} {list(shape)}, found {len(data)}")
    return np.frombuffer(data, dtype).reshape(shape)


def encode_array(array: np.ndarray) -> dict[str, Any]:
    """`array` in json-numpy's form, to the bit."""
    contiguous = np.ascontiguousarray(array)
    encoded = base64.b64encode(contiguous.tobytes()).decode("ascii")
    return {"__numpy__": encoded, "dtype": contiguous.dtype.str, "shape": list(array.shape)}


def _refuse(field: str, expected: str) -> NoReturn:
    raise InvalidRequest(f"{field}: expected {expected}", field=field)


def _kind(value: Any) -> str:
    return "null" if value is None else f"a value of type {type(value).__name__}"


def _text(key: Any) -> str:
    return key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else str(key)


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(_text(key) for key, count in counts.items() if count > 1)
        raise InvalidRequest(f"{twice!r} is there twice", field=twice)
    return value


# One decoder for all requests: json.loads with any option builds a new one at each call. The tokens NaN and Infinity
# pass here, so that the error of the field they are in can name it: no field takes them.
_JSON_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _decode_json(body: bytes) -> Any:
    try:
        return _JSON_DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8: byte {error.start} is {body[error.start]:#04x}") from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply: expected at most a list of lists") from None
    except ValueError as error:  # also an integer of more than 4300 digits, which Python won't convert
        raise InvalidRequest(f"the body is not JSON: {error}") from None


def _decode_msgpack(body: bytes) -> Any:
    try:
        return msgpack.unpackb(body, object_pairs_hook=_unique)
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply: expected at most a list of lists") from None
    except ValueError as error:  # the root of msgpack's errors: truncated, too deep, unknown byte, bad UTF-8
        reason = str(error) or type(error).__name__
        raise InvalidRequest(f"the body is not msgpack: {reason}") from None


def _scalar(value: Any) -> Any:
    """openpi's NumPy scalars ({b"__npgeneric__": true, b"data": 0.5, b"dtype": "<f4"}) as Python ones."""
    if type(value) is dict and (b"__npgeneric__" in value or "__npgeneric__" in value):
        return value.get(b"data", value.get("data"))
    return value


def _dtype(value: Any, field: str) -> np.dtype[Any]:
    name = _text(value) if isinstance(value, (str, bytes)) else ""
    if not _DTYPE.fullmatch(name):
        _refuse(field, f"a dtype of real numbers such as '<f4', found {str(value)[:40]!r}")
    return np.dtype(name)


def _shape(value: Any, field: str) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > 2 or not all(type(n) is int and 0 <= n < 2**31 for n in value):
        _refuse(field, f"shape as a list of at most two sizes, found {str(value)[:40]}")
    return tuple(value)


def _base64(value: Any, field: str) -> bytes:
    if not isinstance(value, str):
        _refuse(field, f"__numpy__ as a base64 string, found {_kind(value)}")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        _refuse(field, f"__numpy__ as base64: {error}")


def _pack_array(value: Any) -> dict[bytes, Any]:
    array = np.ascontiguousarray(value)
    return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": array.dtype.str, b"shape": list(value.shape)}
