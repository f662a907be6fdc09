"""Bodies: bytes <-> plain Python values and NumPy arrays. `schemas` knows what the fields mean.

Arrays have three encodings, which are read wherever they stand. Keys may be of type bin or str.

    json-numpy      {"__numpy__": base64, "dtype": "<f4", "shape": [2, 28]}; a NumPy scalar has the shape []
    openpi          {b"__ndarray__": true, b"data": bytes, b"dtype": "<f4", b"shape": [2, 28]}
                    {b"__npgeneric__": true, b"data": 0.5, b"dtype": "<f4"} is a NumPy scalar
    msgpack-numpy   {b"nd": true, b"type": "<f4", b"kind": b"", b"shape": [2, 28], b"data": bytes}
                    {b"nd": false, b"type": "<f4", b"data": bytes} is a NumPy scalar

Arrays of a reply are encoded as those of its request (`spoken`); where that had none, they are nested lists in JSON and
openpi's in msgpack. Decoding never runs code: dtypes are numbers only, kinds that hold pickles are
refused, and so is data whose length differs from the shape.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import json
import math
import re
import reprlib
from collections import Counter
from typing import Any, NoReturn

import msgpack  # type: ignore[import-untyped, unused-ignore]
import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequest

JSON = "application/json"
MSGPACK = "application/msgpack"

MAX_SAFE_INTEGER = 2**53  # JSON numbers above it lose digits in JavaScript and many other languages

_DTYPE = re.compile(r"[<>=|]?(?:f[248]|[iu][1248])|float(?:16|32|64)|u?int(?:8|16|32|64)")
_BOOLEANS = ("|b1", "?", "bool")
_MOST_AXES = 3  # batch, time, obs_dim or action_dim
_DEEPEST = 4  # where a field may have a scalar: {"arm": [[[scalar]]]}
_MARKERS = (("__numpy__", b"__numpy__"), ("__ndarray__", b"__ndarray__"), ("__npgeneric__", b"__npgeneric__"))

_ARRAY_KEYS = {
    "__numpy__": {"__numpy__", "dtype", "shape"},
    "__ndarray__": {"__ndarray__", "data", "dtype", "shape"},
    "nd": {"nd", "type", "shape", "data"},  # and "kind", which old versions did not write
}


def decode(body: bytes, media_type: str, needs: str = "observation") -> dict[str, Any]:
    """A request's body as a dict with str keys; encoded arrays and scalars are left as they are. `needs` is for errors.

    Raises:
        InvalidRequest: not the promised format, not an object, or a key twice.
    """
    if not body:
        raise InvalidRequest(f"the body is empty: expected an object with at least {needs!r}")
    value = _decode_json(body) if media_type == JSON else _decode_msgpack(body)
    if not isinstance(value, dict):
        raise InvalidRequest(f"expected an object with at least {needs!r}, found {_kind(value)}")
    return text_keys(value)


def text_keys(value: dict[Any, Any]) -> dict[str, Any]:
    """`value` with keys of type str. Raises InvalidRequest for a key that is there twice, as bin and as str."""
    return _unique([(_text(key), item) for key, item in value.items()])


def encode(value: dict[str, Any] | NDArray[Any], media_type: str, marker: str | None = None) -> bytes:
    """A reply: an object, or one array.

    Args:
        value: NumPy arrays become nested lists in JSON, and openpi's arrays in msgpack.
        marker: as `array_marker` returns it: that encoding of arrays instead, where `media_type` has it.
    """
    if media_type == JSON:
        return (_JSON_NUMPY_ENCODER if marker == "__numpy__" else _JSON_ENCODER).encode(value).encode()
    packed: bytes = msgpack.packb(value, default=_pack_msgpack_numpy if marker == "nd" else _pack_openpi)
    return packed


def append(encoded: bytes, members: dict[str, Any], media_type: str) -> bytes:
    """`encoded`, an object of at least one member as `encode` returns it, with `members` (up to 15) at its end.

    For members that are known only once the others are encoded, such as the time that this took.
    """
    more = encode(members, media_type)
    if media_type == JSON:
        return encoded[:-1] + b"," + more[1:]
    # msgpack writes the number of members first: in one byte up to 15, then in two bytes behind a marker.
    head = 1 if encoded[0] & 0xF0 == 0x80 else 3
    count = encoded[0] & 0x0F if head == 1 else int.from_bytes(encoded[1:head], "big")
    header: bytes = msgpack.Packer().pack_map_header(count + len(members))
    return header + encoded[head:] + more[1:]


def brief(value: Any) -> str:
    """A short repr of anything that a client may send, however large or deep. `repr` recurses without a limit."""
    return "null" if value is None else reprlib.repr(value)


def refuse(field: str, expected: str, found: Any) -> NoReturn:
    """Raises InvalidRequest. `found` is a text of ours, or any value that the client sent for `field`."""
    found = found if isinstance(found, str) else brief(found)
    raise InvalidRequest(f"{field}: expected {expected}; found {found:.120}", field=field)


def array_marker(value: dict[Any, Any]) -> str | None:
    """The key by which `value` claims to be an encoded array or NumPy scalar, if any."""
    for name, as_bytes in _MARKERS:
        if name in value or as_bytes in value:
            return name
    # Two letters may also be somebody's own name for something.
    return "nd" if type(value.get(b"nd", value.get("nd"))) is bool else None


def spoken(fields: dict[str, Any]) -> str | None:
    """The marker of the first encoded array or scalar in a decoded body. Of nested lists the first row is looked at."""
    for value in fields.values():
        if (type(value) is list or type(value) is dict) and (marker := _marker_in(value, _DEEPEST)):
            return marker
    return None


def _marker_in(value: Any, depth: int) -> str | None:
    while type(value) is list and value and depth > 0:
        # np.float64 is a Python float and goes out as a plain number, so the first item may be plain among scalars.
        has_scalars = type(value[0]) is not list and dict in map(type, value)
        value, depth = next(item for item in value if type(item) is dict) if has_scalars else value[0], depth - 1
    if type(value) is not dict:
        return None
    marker = array_marker(value)
    if marker is None and depth > 0:
        marker = next((found for item in value.values() if (found := _marker_in(item, depth - 1))), None)
    return marker


def decode_array(value: dict[Any, Any], field: str) -> np.ndarray:
    """An encoded array: a read-only view of the body's bytes, in the dtype and byte order it was sent in.

    Raises:
        InvalidRequest: naming `field`: unknown or missing keys, a dtype that isn't a number, bad base64, or data
            whose length is not what dtype and shape make it.
    """
    parts = text_keys(value)
    marker = array_marker(parts)
    if marker == "nd" and (kind := parts.pop("kind", b"")) not in (b"", ""):
        refuse(field, "an array of plain numbers", f"one of kind {brief(kind)}, which is never read")
    if set(parts) != _ARRAY_KEYS.get(marker or ""):
        forms = "__numpy__, dtype, shape; __ndarray__, data, dtype, shape; or nd, type, kind, shape, data"
        refuse(field, f"an encoded array with exactly the keys {forms}", brief(list(parts)))
    dtype = _dtype(parts["type" if marker == "nd" else "dtype"], field)
    shape = _shape(parts["shape"], field)
    data = _base64(parts["__numpy__"], field) if marker == "__numpy__" else parts["data"]
    if not isinstance(data, bytes):
        refuse(field, "data as bytes", _kind(data))
    if len(data) != math.prod(shape) * dtype.itemsize:
        refuse(field, f"{math.prod(shape) * dtype.itemsize} bytes for {dtype.str} {list(shape)}", len(data))
    return np.frombuffer(data, dtype).reshape(shape)


def scalar(value: Any, field: str) -> Any:
    """An encoded NumPy scalar, or array of shape [], as the Python number that it is; anything else as it is.

    Raises:
        InvalidRequest: naming `field`: it claims to be one, and is malformed.
    """
    marker = array_marker(value) if type(value) is dict else None
    if marker is None or value.get(b"shape") or value.get("shape"):  # an array has axes
        return value
    parts = text_keys(value)
    if marker == "__npgeneric__":
        if parts.get("data") is None:  # not left out: whoever sent it meant a number
            refuse(field, "data beside __npgeneric__", None)
        return parts["data"]
    if parts.get("nd") is False:
        parts = {"nd": True, "kind": b"", "shape": [], **{key: parts.get(key) for key in ("type", "data")}}
    if parts.get("shape") != []:
        return value
    name = "type" if marker == "nd" else "dtype"
    if parts.get(name) in _BOOLEANS:
        return bool(decode_array({**parts, name: "|u1"}, field))
    return decode_array(parts, field).item()


def encode_array(array: np.ndarray) -> dict[str, Any]:
    """`array` in json-numpy's form, to the bit."""
    contiguous = np.ascontiguousarray(array)
    encoded = base64.b64encode(contiguous.tobytes()).decode("ascii")
    return {"__numpy__": encoded, "dtype": contiguous.dtype.str, "shape": list(array.shape)}


def _kind(value: Any) -> str:
    return "null" if value is None else f"a value of type {type(value).__name__}"


def _text(key: Any) -> str:
    return key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else str(key)


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(_text(key) for key, count in counts.items() if count > 1)
        raise InvalidRequest(f"{brief(twice)} is there twice", field=twice[:80])
    return value


# Encoders for all replies: json.dumps builds a new one at each call that has an option, as json.loads does below.
_JSON_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=np.ndarray.tolist)
_JSON_NUMPY_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=encode_array)

# One decoder for all requests: json.loads builds a new one at each call that has an option. The tokens NaN and Infinity
# are let through here and refused by `schemas`, whose errors name the field.
_JSON_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _decode_json(body: bytes) -> Any:
    try:
        return _JSON_DECODER.decode(body.removeprefix(codecs.BOM_UTF8).decode("utf-8"))  # some clients write a BOM
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


def _dtype(value: Any, field: str) -> np.dtype[Any]:
    name = _text(value) if isinstance(value, (str, bytes)) else ""
    if not _DTYPE.fullmatch(name):
        refuse(field, "a dtype of real numbers such as '<f4'", brief(value))
    return np.dtype(name)


def _shape(value: Any, field: str) -> tuple[int, ...]:
    sizes = value if isinstance(value, list) and len(value) <= _MOST_AXES else [None]
    if not all(type(n) is int and 0 <= n < 2**31 for n in sizes):
        refuse(field, f"shape as a list of at most {_MOST_AXES} sizes", brief(value))
    return tuple(sizes)


def _base64(value: Any, field: str) -> bytes:
    if not isinstance(value, str):
        refuse(field, "__numpy__ as a base64 string", _kind(value))
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        refuse(field, "__numpy__ as base64", str(error))


def _pack_openpi(value: Any) -> dict[bytes, Any]:
    array = np.ascontiguousarray(value)
    return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": array.dtype.str, b"shape": list(value.shape)}


def _pack_msgpack_numpy(value: Any) -> dict[bytes, Any]:
    array = np.ascontiguousarray(value)
    shape = list(value.shape)
    return {b"nd": True, b"type": array.dtype.str, b"kind": b"", b"shape": shape, b"data": array.tobytes()}
