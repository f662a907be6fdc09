"""Reads safetensors without copying tensors, so that a server that loads a policy goes on answering.

The library copies every tensor and holds the interpreter's lock meanwhile: 6 to 14 ms for the 10 MB of a policy of
4 x 512, most of it for pages of memory that are touched first. Here a file is read into memory that the tensors then
are views of; reading and hashing release the lock. Writing is the library's.
"""

from __future__ import annotations

import json
import math
import mmap
from pathlib import Path
from typing import Any

import torch

from policy.errors import CheckpointError


def parse(path: Path, data: mmap.mmap) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors by name, views of `data`, and the metadata.

    The format: the length of the header (eight bytes), the header in JSON, and the tensors' bytes without gaps.

    Args:
        path: for messages.

    Raises:
        CheckpointError: the bytes are not of the format, or a tensor is not of float32.
    """
    try:
        return _parse(data)
    except _Fault as fault:
        raise CheckpointError(f"{path}: truncated or not a safetensors file ({len(data)} bytes): {fault}") from None
    except _OtherDtype as fault:
        raise CheckpointError(f"{path}: {fault}") from None


class _Fault(ValueError):
    """Bytes that are not of the format."""


class _OtherDtype(ValueError):
    """A tensor that is not of float32."""


def _parse(data: mmap.mmap) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    start = 8 + int.from_bytes(data[:8], "little")
    if start > len(data):
        raise _Fault(f"its header would end at byte {start}")
    try:
        header = json.loads(data[8:start].decode(), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise _Fault(f"its header can't be read: {error}") from None
    if not isinstance(header, dict):
        raise _Fault("its header is not an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _Fault("its __metadata__ does not map names to strings")
    entries = sorted(((name, *_entry(name, entry)) for name, entry in header.items()), key=lambda entry: entry[2:])
    # Numbers are read where they lie, so they must be aligned, as they are in files that the library wrote.
    body: Any = data if start % 4 == 0 else bytearray(data[start:])
    offset = start if body is data else 0
    tensors, position = {}, 0
    for name, shape, begin, end in entries:
        if begin != position or end - begin != 4 * math.prod(shape) or offset + end > len(body):
            raise _Fault(f"tensor {name!r} of {shape} is said to be at bytes {begin} to {end}")
        position = end
        tensors[name] = (
            torch.frombuffer(body, dtype=torch.float32, count=math.prod(shape), offset=offset + begin).view(shape)
            if begin < end
            else torch.empty(shape)
        )
    if offset + position != len(body):
        raise _Fault(f"its tensors end at byte {start + position}")
    return tensors, metadata


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _entry(name: str, entry: Any) -> tuple[list[int], int, int]:
    """Shape, begin and end of a tensor."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _Fault(f"tensor {name!r} needs dtype, shape and data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(number) is int and number >= 0 for number in numbers):
            raise _Fault(f"tensor {name!r}: shape and data_offsets must be lists of whole numbers")
    if len(offsets) != 2:
        raise _Fault(f"tensor {name!r}: data_offsets must be two numbers")
    if entry["dtype"] != "F32":
        raise _OtherDtype(f"tensor {name!r} has dtype {entry['dtype']}, expected F32")
    return shape, *offsets
