"""Tensors by name: what goes in, as arrays that `parse_act` reads, and what comes out, from an answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequest
from service.protocol.codec import brief, refuse
from service.protocol.replies import Answer

OBSERVATION = "observation"
COMMITTED = "committed"

DTYPES = {
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "INT8": "|i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "|u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
}
MAX_AXES = 3  # rows, time, numbers


@dataclass(frozen=True)
class Output:
    """An output tensor of every model.

    Attributes:
        datatype: a key of `DTYPES`.
        shape: of one row: None is N, and `_CHUNK` is an action, of one size or two.
        values: the tensor of all B rows.
    """

    datatype: str
    shape: tuple[Literal["chunk"] | None, ...]
    values: Callable[[Answer], NDArray[Any] | None]


def _of_each_row(number: Callable[[Answer], int]) -> Callable[[Answer], NDArray[Any]]:
    return lambda answer: np.full(len(answer.reply.action), number(answer), np.int32)


_CHUNK: Literal["chunk"] = "chunk"
"""(action_dim,), or (action_horizon, action_dim) where the policy answers with chunks."""

OUTPUTS: Mapping[str, Output] = {
    "action": Output("FP32", (_CHUNK,), lambda answer: answer.reply.action),
    "q": Output("FP32", (), lambda answer: answer.reply.q),
    "q_std": Output("FP32", (), lambda answer: answer.reply.q_std),
    "observation_z_max": Output("FP32", (), lambda answer: answer.reply.observation_z_max),
    "num_candidates": Output("INT32", (), _of_each_row(lambda answer: answer.request.num_candidates)),
    "num_steps": Output("INT32", (), _of_each_row(lambda answer: answer.request.num_steps)),
    "seed": Output("UINT64", (), lambda answer: answer.request.seeds),
    "candidates": Output("FP32", (None, _CHUNK), lambda answer: answer.reply.candidates),
    "candidate_q": Output("FP32", (None,), lambda answer: answer.reply.candidate_q),
}


CANDIDATES = frozenset({"candidates", "candidate_q"})
"""Outputs that are computed for requests that name one of them."""


def usual_outputs(binary: bool = False) -> dict[str, bool]:
    """What goes out to a request that names no outputs: all but the candidates."""
    return {name: binary for name in OUTPUTS if name not in CANDIDATES}


def check_outputs(names: Mapping[str, object]) -> None:
    """Raises InvalidRequest for an output that there is not."""
    unknown = names.keys() - OUTPUTS.keys()
    if unknown:
        name = min(unknown)
        raise InvalidRequest(f"outputs: {brief(name)} is not an output; there are {', '.join(OUTPUTS)}", field=name)


def input_array(name: str, datatype: Any, shape: Any, data: Any) -> dict[str, Any] | list[Any]:
    """A tensor in a form that `parse_act` reads: bytes as an encoded array, numbers as lists of the tensor's shape.

    Args:
        data: bytes; or numbers in a flat list, or in lists of the tensor's shape.

    Raises:
        InvalidRequest: no datatype of numbers, no shape, or data of another size.
    """
    dtype = DTYPES.get(datatype) if isinstance(datatype, str) else None
    if dtype is None:
        refuse(name, f"a datatype of {', '.join(DTYPES)}", brief(datatype))
    if not _is_shape(shape):
        refuse(name, f"a shape of 1 to {MAX_AXES} sizes above 0", brief(shape))
    if isinstance(data, bytes):
        return {"__ndarray__": True, "data": data, "dtype": dtype, "shape": shape}
    if not isinstance(data, list):
        refuse(name, "data as a list of numbers", brief(data))
    if not data or type(data[0]) is not list:
        if len(data) != math.prod(shape):
            refuse(name, f"{math.prod(shape)} numbers for shape {brief(shape)}", f"{len(data)} numbers")
        numbers: list[Any] = data
        for size in reversed(shape[1:]):
            numbers = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        return numbers
    found: list[int] = []  # of the first list in each; `parse_act` sees whether the others are as long
    inner: Any = data
    while type(inner) is list and len(found) <= len(shape):
        found.append(len(inner))
        inner = inner[0] if inner else None
    if found != shape:
        refuse(name, f"flat data, or lists of shape {brief(shape)}", f"lists of shape {brief(found)}")
    return data


def _is_shape(value: Any) -> bool:
    sizes = isinstance(value, list) and all(type(size) is int and 0 < size < 2**31 for size in value)
    return sizes and 1 <= len(value) <= MAX_AXES
