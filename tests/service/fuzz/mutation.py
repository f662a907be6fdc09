"""Strategies for messages that are almost right: a valid one with a few changes, as values and as bytes.

A message is a tree: lists, `Members` for objects, and leaves. `to_json` and `to_msgpack` write what encoders refuse to
write and decoders have to expect: a key twice, and more levels than the interpreter allows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped, unused-ignore]
from hypothesis import strategies as st

DEEP = 1000  # about the interpreter's recursion limit, and within what the decoders of JSON and msgpack accept


@dataclass
class Members:
    """An object, as [key, value] pairs: a key may be there twice."""

    pairs: list[list[Any]]


@dataclass(frozen=True)
class Nested:
    """`value` in `depth` lists, or in as many objects."""

    value: Any
    depth: int
    objects: bool = False


@dataclass(frozen=True)
class Raw:
    """A leaf that no encoder writes."""

    json: bytes
    msgpack: bytes


def tree(value: Any) -> Any:
    """A plain value as a tree of its own."""
    if isinstance(value, dict):
        return Members([[key, tree(item)] for key, item in value.items()])
    return [tree(item) for item in value] if isinstance(value, list) else value


def to_json(value: Any) -> bytes:
    """A tree as JSON. Bytes are written as hexadecimal digits."""
    match value:
        case Raw():
            return value.json
        case Nested():
            opening, closing = (b'{"a":', b"}") if value.objects else (b"[", b"]")
            return opening * value.depth + to_json(value.value) + closing * value.depth
        case Members():
            return b"{" + b",".join(_json_key(key) + b":" + to_json(item) for key, item in value.pairs) + b"}"
        case list():
            return b"[" + b",".join(map(to_json, value)) + b"]"
        case bytes() | msgpack.ExtType() | msgpack.Timestamp():
            return json.dumps(str(value)).encode()
        case _:
            return json.dumps(value).encode()


def _json_key(key: Any) -> bytes:
    return json.dumps(key if isinstance(key, str) else str(key)).encode()


def to_msgpack(value: Any) -> bytes:
    """A tree as msgpack. Integers beyond 64 bits are written as floats."""
    packer = msgpack.Packer(unicode_errors="surrogatepass")
    match value:
        case Raw():
            return value.msgpack
        case Nested():
            return (b"\x81\xa1a" if value.objects else b"\x91") * value.depth + to_msgpack(value.value)
        case Members():
            members = b"".join(to_msgpack(part) for pair in value.pairs for part in pair)
            return bytes(packer.pack_map_header(len(value.pairs))) + members
        case list():
            return bytes(packer.pack_array_header(len(value))) + b"".join(map(to_msgpack, value))
        case int() if not -(2**63) <= value < 2**64:
            return bytes(packer.pack(float(value)))
        case _:
            return bytes(packer.pack(value))


DTYPES = [
    "<f4", ">f4", "<f8", "<f2", "|u1", "<u8", ">i8", "|b1", "|O", "<c8", "V4", "<M8[s]", "f4,f4", "float32", "<f16"
]  # fmt: skip
MARKERS: list[dict[Any, Any]] = [
    {"__numpy__": "AACAPwAAAEA=", "dtype": "<f4", "shape": [2]},
    {"__numpy__": "AACAPw==", "dtype": "<f4", "shape": []},
    {b"__ndarray__": True, b"data": b"\0\0\x80?\0\0\0@", b"dtype": "<f4", b"shape": [2]},
    {b"__npgeneric__": True, b"data": 0.5, b"dtype": "<f4"},
    {b"nd": True, b"type": "<f4", b"kind": b"", b"shape": [2], b"data": b"\0\0\x80?\0\0\0@"},
    {b"nd": False, b"type": "<f4", b"data": b"\0\0\x80?"},
    {b"nd": True, b"type": "|O", b"kind": b"O", b"shape": [1], b"data": b"\x80\x04N."},
]
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**53 + 1, 2**63, 2**64 - 1, 2**64, -(2**63), 10**30,
    0.0, -0.0, 0.5, 1e-46, 1e39, 1e300, float("nan"), float("inf"), float("-inf"), 3.0,
    "", "x" * 10_000, "\ud800", "ü", "\0", "1", str(2**64), "NaN", "a b", b"", b"\0" * 24, b"\xff\xfe", b"\x93NUMPY",
    [], [0], [[]], [[0.5], [0.5, 1]], [2**31], [-1], [10**30], [1, 1, 1], [0.5] * 3000, [True],
    {}, {"state": [0.5]}, {"a": {"b": {}}}, *MARKERS, *DTYPES,
    msgpack.ExtType(5, b"x"), msgpack.Timestamp(0, 0),
    Raw(b"9" * 5000, b"\xc1"),  # longer than Python converts; a byte without a meaning
    Raw(b"1e999", b"\xdd\xff\xff\xff\xff"),  # infinity; a list of 2^32 - 1 items
    Raw(b"-", b"\xc6\xff\xff\xff\xff"),  # half a number; 2^32 - 1 bytes
    Raw(b'"\\u12', b"\xa2\xc3\x28"),  # half an escape; no UTF-8
    Raw(b"00", b"\xdf\xff\xff\xff\xff"),  # no number; an object of 2^32 - 1 members
]  # fmt: skip

_numbers = st.integers(-(2**63), 2**64 - 1) | st.floats()
_leaves = st.one_of(st.none(), st.booleans(), _numbers, st.text(max_size=4), st.binary(max_size=4))
_keys = st.text(max_size=4) | st.binary(max_size=4)
_values = st.recursive(_leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3))
odd_values = st.sampled_from(ODD) | _values

CHANGES = ("replace", "retype", "remove", "twice", "rename", "nest", "nest", "grow", "swap")


class Place(NamedTuple):
    """Where a value stands: `holder[at]`. `items[number]` is it, or its pair; the root has no items around it."""

    holder: list[Any]
    at: int
    items: list[Any] | None = None
    number: int = 0

    @property
    def value(self) -> Any:
        return self.holder[self.at]


@st.composite
def changed_trees(draw: st.DrawFn, messages: Sequence[Any], names: Sequence[str | bytes]) -> Any:
    """One of `messages` as a tree, with one to three changes. Keys are renamed to `names` or anything else."""
    root = [tree(draw(st.sampled_from(messages)))]
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        places = _places(root)
        place = draw(st.sampled_from(places))
        holder, at, items, number = place
        match draw(st.sampled_from(CHANGES)):
            case "replace":
                holder[at] = tree(draw(odd_values))
            case "retype":
                holder[at] = draw(st.sampled_from(_retyped(place.value)))
            case "remove" if items is not None:
                del items[number]
            case "twice" if items is not None:
                items.insert(number, items[number])
            case "rename" if isinstance(place.value, Members) and place.value.pairs:
                draw(st.sampled_from(place.value.pairs))[0] = draw(st.sampled_from(names) | _keys)
            case "nest":
                depth = draw(st.sampled_from([1, 1, 2, 3, 10, DEEP - 20, DEEP, 50_000]) | st.integers(1, DEEP))
                holder[at] = Nested(place.value, depth, draw(st.booleans()))
            case "grow" if isinstance(place.value, list):
                holder[at] = (place.value * draw(st.sampled_from([2, 3, 100])))[:3000]
            case "swap":
                other = draw(st.sampled_from(places))
                if not (_holds(other.value, holder) or _holds(place.value, other.holder)):
                    holder[at], other.holder[other.at] = other.value, place.value
    return root[0]


def _places(root: list[Any]) -> list[Place]:
    """All places; of long lists the first ones only."""
    places = [Place(root, 0)]
    for place in places:  # which grows meanwhile
        value = place.value
        if isinstance(value, Members):
            places += [Place(pair, 1, value.pairs, number) for number, pair in enumerate(value.pairs)]
        elif isinstance(value, list):
            places += [Place(value, number, value, number) for number in range(min(len(value), 3))]
    return places


def _retyped(value: Any) -> list[Any]:
    """Almost `value`: what a careless client makes of it."""
    changed: list[Any] = [[value], Members([["a", value]]), None]
    match value:
        case bool():
            changed += [int(value), str(value).lower()]
        case int() | float():
            changed += [-value, value + 1, value * 2**20, str(value), value + 0.5]
        case str():
            changed += [value.encode("utf-8", "surrogatepass"), value[:-1], value + "=", value.upper()]
        case bytes():
            changed += [value.decode("latin-1"), value[:-1], value + b"\0"]
        case Members(pairs):
            changed += [[item for _, item in pairs], [key for key, _ in pairs]]
        case list():
            changed += [Members([[str(number), item] for number, item in enumerate(value[:20])]), value[:-1]]
    return changed


def _holds(value: Any, holder: list[Any]) -> bool:
    """Is `holder` within `value`? Then `value` can't be put there: trees have no circles."""
    if isinstance(value, Nested):
        return _holds(value.value, holder)
    if isinstance(value, Members):
        return any(pair is holder or _holds(pair[1], holder) for pair in value.pairs)
    return isinstance(value, list) and (value is holder or any(_holds(item, holder) for item in value[:3]))


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes], tokens: Sequence[bytes] = (b"\0", b"\xff")) -> bytes:
    """Bytes with up to four changes: some changed, left out, repeated, or put in between, or the end cut off.

    Args:
        tokens: what is put in, beside random bytes.
    """
    data = draw(whole)
    for _ in range(draw(st.sampled_from([1, 1, 2, 4]))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 1, 1, 2, 4, 8, 40])))
        match draw(st.sampled_from(["put", "put", "flip", "leave out", "repeat", "cut"])):
            case "put":
                data = data[:start] + draw(st.sampled_from(tokens) | st.binary(max_size=4)) + data[end:]
            case "flip" if start < len(data):
                flipped = data[start] ^ (1 << draw(st.integers(0, 7)))
                data = data[:start] + bytes([flipped]) + data[start + 1 :]
            case "leave out":
                data = data[:start] + data[end:]
            case "repeat":
                data = data[:end] + data[start:end] * draw(st.sampled_from([1, 2, 50])) + data[end:]
            case "cut":
                data = data[:start]
    return data


def inputs(
    changed: st.SearchStrategy[Any],
    write: Callable[[Any], bytes],
    tokens: Sequence[bytes] = (b"\0", b"\xff"),
) -> st.SearchStrategy[bytes]:
    """Changed messages as bytes, half of them damaged after they were written, and a few bytes of no meaning."""
    written = changed.map(write)
    return st.one_of(written, written, damaged(written, tokens), st.binary(max_size=200))
