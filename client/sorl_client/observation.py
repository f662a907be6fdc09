"""`Observation`: what a robot sees, as one vector or as parts by name; and the check of both.

A policy that was exported with `observation_keys` takes parts, and puts them together in its own order. The server
knows those keys, and names what is missing or of another size. This module checks what can be known without them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sorl_client import parameters
from sorl_client.errors import InvalidArgument, WrongArgumentType
from sorl_client.parameters import brief

Observation = npt.ArrayLike | Mapping[str, npt.ArrayLike]
Rows = npt.NDArray[np.float32] | dict[str, npt.NDArray[np.float32]]

EXPECTED = "an array of numbers, or a mapping of names to such arrays"
SPELT = re.compile(r"observation[/.](.+)")  # as openpi's and LeRobot's robots spell the part in brackets


def rows_of(value: Observation) -> Rows:
    """`value` as new arrays of float32: (obs_dim,) or (B, obs_dim), or parts by name, each (d,) or (B, d).

    A part of one number becomes (1,). Names that are all spelt `observation.NAME` or `observation/NAME` become NAME. A
    time axis of 1, as in (B, 1, d), is kept: the server drops it.

    Raises InvalidArgument or WrongArgumentType. The text names `observation`, or the part as `observation['gripper']`,
    and `field` is `observation` or `observation/gripper`, as in the server's errors. At fault are: other than numbers,
    numbers that are not finite in float32, a mapping without parts, a name that is no printable text or is there twice,
    and parts that differ in their number of rows.
    """
    if not isinstance(value, Mapping):
        return parameters.array("observation", value, EXPECTED)
    parts: dict[str, npt.NDArray[np.float32]] = {}
    for given, name in _names(value).items():
        part = parameters.array(_label(given), value[given], field=_field(name))
        parts[name] = part.reshape(1) if part.ndim == 0 else part
    (first, one), *others = parts.items()
    for name, part in others:
        if _leading(part.shape) != _leading(one.shape):
            expected = f"as many rows as {_label(first)}, of shape {one.shape}"
            raise _refusal(name, f"expected {expected}; found shape {part.shape}")
    return parts


def row_of(value: Observation) -> Rows:
    """One observation: as `rows_of`, but (obs_dim,) or parts (d,) only."""
    rows = rows_of(value)
    if isinstance(rows, dict):
        for name, part in rows.items():
            if part.ndim != 1:
                raise _refusal(name, f"expected one row of numbers; found shape {part.shape}")
    elif rows.ndim != 1:
        fault = f"observation: expected one row of numbers; found shape {rows.shape}"
        raise InvalidArgument(fault, field="observation")
    return rows


def copy_of(rows: Rows) -> Rows:
    """`rows` with arrays of its own."""
    return {name: part.copy() for name, part in rows.items()} if isinstance(rows, dict) else rows.copy()


def _names(value: Mapping[str, npt.ArrayLike]) -> dict[str, str]:
    """The name of the part under each key of `value`."""
    if not value:
        raise InvalidArgument(f"observation: expected {EXPECTED}; found no parts", field="observation")
    for key in value:
        if not (isinstance(key, str) and key and key.isprintable()):  # no policy has another one
            kind = InvalidArgument if isinstance(key, str) else WrongArgumentType
            fault = f"observation: expected names of parts as printable text; found {brief(key)}"
            raise kind(fault, field="observation")
    spelt = [SPELT.fullmatch(key) for key in value]
    names = {key: match[1] for key, match in zip(value, spelt, strict=True) if match is not None}
    if len(names) < len(value):
        return {key: key for key in value}
    keys: dict[str, str] = {}
    for key, name in names.items():
        if name in keys:
            raise _refusal(name, f"expected it once; found {brief(keys[name])} and {brief(key)}")
        keys[name] = key
    return names


def _leading(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes before the numbers of a row, without a time axis of 1."""
    return shape[:1] if len(shape) == 3 and shape[1] == 1 else shape[:-1]


def _label(name: str) -> str:
    return f"observation[{brief(name)}]"


def _field(name: str) -> str:
    return f"observation/{name}"


def _refusal(name: str, fault: str) -> InvalidArgument:
    return InvalidArgument(f"{_label(name)}: {fault}", field=_field(name))
