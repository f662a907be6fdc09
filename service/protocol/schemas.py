"""The fields of POST /act. Validation is strict and complete: an `ActRequest` holds typed, finite values.

`ActRequest` is also what /docs shows. The limits that depend on the model are checked later: its dimensions and the
parts of its observation by `Model.rows_of`, N and M by `Admission.grant`.

Robots spell an observation in several ways, and every protocol takes all of them, since each calls `parse_act`: as one
vector in `observation` or `state`, or as parts by name, in a dict or in fields such as `observation/joint_pos`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)

from service.errors import InvalidRequest
from service.protocol import codec
from service.protocol.codec import MAX_SAFE_INTEGER, brief, refuse

MAX_DEADLINE_MS = 3_600_000  # an hour

MAX_REQUEST_ID = 128
REQUEST_ID = re.compile(rf"[\x21-\x7e]{{1,{MAX_REQUEST_ID}}}")  # printable ASCII: it is echoed in a header

_DECIMAL = re.compile(r"[0-9]{1,20}")
_NUMBERS = frozenset({float, int})
_ONE_STEP = "a time axis of 1: one observation, no history and no image"


Parts = Mapping[str, NDArray[np.float32]]
"""The parts of an observation by name, each (d,), or (B, d) in all of them."""


def parse_observation(value: Any) -> NDArray[np.float32] | Parts:
    """One vector, (obs_dim,) or (B, obs_dim), or parts by name. The single part `state` is one vector too.

    Raises:
        InvalidRequest: naming `observation`, or the part as `observation/NAME`: not numbers, ragged, empty, of other
            axes than those, not finite in float32; or parts that differ in their leading axes.
    """
    if not isinstance(value, dict) or codec.array_marker(value) is not None:
        return _parse_vector(value, "observation")
    parts = {name: _parse_part(item, f"observation/{name}") for name, item in codec.text_keys(value).items()}
    if not parts:
        refuse("observation", "a list of numbers, an encoded array, or such parts by name", value)
    if parts.keys() == {"state"}:
        return parts["state"]
    _check_rows(parts)
    return MappingProxyType(parts)


def _check_rows(parts: Parts) -> None:
    """Raises InvalidRequest for a part that has other rows than the first one with rows."""
    first, one = max(parts.items(), key=lambda item: item[1].ndim)
    for name, part in parts.items():
        if part.shape[:-1] != one.shape[:-1]:
            # As many numbers as there are rows are most likely one for each row.
            size = 1 if part.shape == one.shape[:-1] else part.shape[-1]
            expected = f"shape {(len(one), size)}: {len(one)} rows, as {brief(first)} of shape {one.shape}"
            refuse(f"observation/{name}", expected, f"shape {part.shape}")


def _parse_part(value: Any, field: str) -> NDArray[np.float32]:
    """As `_parse_vector`; a number is a vector of one."""
    value = codec.scalar(value, field)
    return _parse_vector([value] if type(value) in _NUMBERS else value, field)


def _parse_vector(value: Any, field: str) -> NDArray[np.float32]:
    """(d,) or (B, d) as contiguous float32, from lists, a NumPy array or an encoded one. (B, 1, d) becomes (B, d).

    Raises:
        InvalidRequest: naming `field`; see `parse_observation`.
    """
    if isinstance(value, list):
        array = _array_of_lists(value, field)
    elif isinstance(value, dict):
        array = codec.decode_array(value, field)
    elif isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        array = value
    else:
        refuse(field, "a list of numbers, a list of such lists, or an encoded array", value)
    if array.ndim == 3 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2) or array.size == 0:
        if array.ndim == 3 and array.size:
            refuse(field, _ONE_STEP, f"shape {array.shape}")
        refuse(field, "shape (obs_dim,), (B, obs_dim) or (B, 1, obs_dim), none of them 0", list(array.shape))
    return _narrowed(array, field)


def _narrowed(array: NDArray[Any], field: str) -> NDArray[np.float32]:
    """`array` as contiguous float32. Raises InvalidRequest for a number that is not finite there."""
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows float32 is refused on the next line
        narrow = np.ascontiguousarray(array, dtype=np.float32)
    finite = np.isfinite(narrow)
    if not finite.all():
        where = np.argwhere(~finite)[0].tolist()
        refuse(field, "finite numbers within float32", f"{array[tuple(where)]} at {where}")
    return narrow


def _array_of_lists(value: list[Any], field: str) -> NDArray[np.float64]:
    batch = bool(value) and type(value[0]) is list
    rows = list(value) if batch else [value]
    if batch and rows[0] and type(rows[0][0]) is list:
        rows = [_only_step(number, steps, field) for number, steps in enumerate(rows)]
    width = len(rows[0])
    for number, row in enumerate(rows):
        if type(row) is not list or len(row) != width:
            refuse(field, f"every row to be a list of {width} numbers, as row 0", f"row {number}: {brief(row)}")
        if not _NUMBERS.issuperset(map(type, row)):  # type(), as a bool is an instance of int
            rows[number] = [codec.scalar(item, field) for item in row]
            if odd := [item for item in rows[number] if type(item) not in _NUMBERS]:
                refuse(field, "numbers", odd[0])
    try:
        array = np.array(rows, dtype=np.float64)
    except OverflowError:
        refuse(field, "finite numbers within float32", "an integer beyond float64")
    return array if batch else array[0]


def _only_step(number: int, steps: Any, field: str) -> Any:
    """The row inside a time axis of 1."""
    if type(steps) is not list or len(steps) != 1:
        refuse(field, _ONE_STEP, f"row {number}: {brief(steps)}")
    return steps[0]


def parse_committed(value: Any) -> NDArray[np.float32] | None:
    """(d, action_dim) or (B, d, action_dim), in environment units.

    Raises:
        InvalidRequest: naming `committed`: not numbers, ragged, empty, of other axes, or not finite in float32.
    """
    if value is None:
        return None
    if isinstance(value, list):
        array = _lists_of_lists(value)
    elif isinstance(value, dict):
        array = codec.decode_array(value, "committed")
    elif isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        array = value
    else:
        refuse("committed", "a list of actions, a list of such lists, or an encoded array", value)
    if array.ndim not in (2, 3) or array.size == 0:
        refuse("committed", "shape (d, action_dim) or (B, d, action_dim), none of them 0", list(array.shape))
    return _narrowed(array, "committed")


def _lists_of_lists(value: list[Any]) -> NDArray[np.float64]:
    """(d, action_dim) or (B, d, action_dim)."""
    batch = bool(value) and type(value[0]) is list and bool(value[0]) and type(value[0][0]) is list
    rows = [_array_of_lists(row, "committed") for row in (value if batch else [value]) if type(row) is list]
    if len(rows) != (len(value) if batch else 1) or any(row.shape != rows[0].shape for row in rows):
        refuse("committed", "as many actions in every row as in row 0", value)
    return np.array(rows) if batch else rows[0]


def parse_seed(value: Any, info: ValidationInfo) -> int | list[int] | None:
    """A uint64, or a list of them (one a row).

    Raises:
        InvalidRequest: naming `seed`: negative, above 2^64 - 1, not whole, or a JSON number above 2^53.
    """
    json_numbers = info.context != codec.MSGPACK
    if isinstance(value, dict) and codec.array_marker(value):
        array = codec.decode_array(value, "seed")
        if array.dtype.kind not in "iu" or array.ndim > 1:
            refuse("seed", "an array of whole numbers of shape (B,)", f"{array.dtype} {list(array.shape)}")
        value, json_numbers = array.tolist(), False
    if isinstance(value, list):
        if not value:
            refuse("seed", "one seed a row", value)
        return [_one_seed(codec.scalar(item, "seed"), json_numbers) for item in value]
    return None if value is None else _one_seed(value, json_numbers)


def whole(value: Any) -> Any:
    """A float that is whole as an int: some languages and libraries have one kind of number only."""
    return int(value) if type(value) is float and value.is_integer() else value


def _one_seed(value: Any, json_numbers: bool) -> int:
    """A seed that came as a float is taken up to 2^53, in msgpack too: above, it may have been another integer."""
    if type(value) is float:
        value, json_numbers = whole(value), True
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        seed = int(value)
    elif type(value) is int:
        seed = value
        if json_numbers and seed > MAX_SAFE_INTEGER:
            refuse("seed", "integers above 2^53 as decimal strings, since JSON numbers lose digits there", value)
    else:
        refuse("seed", "an integer, a decimal string, or a list of B of them", value)
    if not 0 <= seed < 2**64:
        refuse("seed", "0 to 2^64 - 1", value)
    return seed


def parse_request_id(value: Any) -> str | None:
    """`value`. Raises InvalidRequest for an id that can't be echoed in a header."""
    if value is not None and not (isinstance(value, str) and REQUEST_ID.fullmatch(value)):
        refuse("request_id", f"1 to {MAX_REQUEST_ID} printable ASCII characters without spaces", value)
    return value


_ARRAY_SCHEMA = {
    "type": "object",
    "description": "An encoded array: base64 of the raw bytes in C order.",
    "properties": {"__numpy__": {"type": "string"}, "dtype": {"type": "string"}, "shape": {"type": "array"}},
    "required": ["__numpy__", "dtype", "shape"],
}
_NUMBER_LIST = {"type": "array", "items": {"type": "number"}}
_VECTOR_SCHEMA = {"anyOf": [_NUMBER_LIST, {"type": "array", "items": _NUMBER_LIST}, _ARRAY_SCHEMA]}
_PARTS_SCHEMA = {"type": "object", "description": "Parts by name.", "additionalProperties": _VECTOR_SCHEMA}
_SEED_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]{1,20}$"}]}

Observation = Annotated[
    NDArray[np.float32] | Parts,
    PlainValidator(parse_observation),
    WithJsonSchema({"anyOf": [*_VECTOR_SCHEMA["anyOf"], _PARTS_SCHEMA]}),
]
Committed = Annotated[
    NDArray[np.float32] | None,
    PlainValidator(parse_committed),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": _NUMBER_LIST},
                {"type": "array", "items": {"type": "array", "items": _NUMBER_LIST}},
                _ARRAY_SCHEMA,
                {"type": "null"},
            ]
        }
    ),
]
Whole = Annotated[int, BeforeValidator(whole)]
Seed = Annotated[
    int | list[int] | None,
    PlainValidator(parse_seed),
    WithJsonSchema({"anyOf": [*_SEED_SCHEMA["anyOf"], {"type": "array", "items": _SEED_SCHEMA}, {"type": "null"}]}),
]
RequestId = Annotated[
    str | None,
    PlainValidator(parse_request_id),
    WithJsonSchema({"anyOf": [{"type": "string", "maxLength": MAX_REQUEST_ID}, {"type": "null"}]}),
]


def _show_spellings(schema: dict[str, Any]) -> None:
    """What `_gathered` takes, for /docs."""
    schema["properties"]["state"] = {**_VECTOR_SCHEMA, "description": "In place of `observation`: one vector."}
    schema["patternProperties"] = {
        r"^observation[/.].+": {**_VECTOR_SCHEMA, "description": "In place of `observation`: the part of this name."}
    }
    for name, field in schema["properties"].items():
        if name not in ("observation", "state") and "anyOf" not in field:
            kind = {key: field.pop(key) for key in list(field) if key not in ("title", "description", "default")}
            field["anyOf"] = [kind, {"type": "null"}]
    del schema["required"]


class ActRequest(BaseModel):
    """One observation, or B of them that are answered together. A null field counts as left out."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        protected_namespaces=(),
        json_schema_extra=_show_spellings,
    )

    observation: Observation = Field(
        description="(obs_dim,), (B, obs_dim) or (B, 1, obs_dim): plain lists, or an encoded array. Or its parts by "
        "name, where the policy has observation_keys. Every number finite in float32.",
        examples=[[0.0, 0.5, -0.25]],
    )
    num_candidates: Whole | None = Field(None, ge=1, description="N: candidate actions drawn, of which the best by Q.")
    num_steps: Whole | None = Field(None, ge=1, description="M: refinement steps of every candidate.")
    deadline_ms: float | None = Field(
        None, gt=0, le=MAX_DEADLINE_MS, allow_inf_nan=False, description="The reply is due this long after receipt."
    )
    on_late: Literal["degrade", "reject"] = Field(
        "degrade",
        description="With a deadline: are N and M ceilings (degrade), or exact and refused at once where there is no "
        "time (reject)?",
    )
    min_quality: float = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="With a deadline: the least measured success of an (N, M) that the server chooses, as a share of "
        "the best one's. Where there is no time for such a one, the request is refused. 0: anything down to (1, 1).",
    )
    seed: Seed = Field(
        None,
        description="uint64; above 2^53 as a decimal string. A list of B, or one s, which gives row b the seed "
        "(s + b) mod 2^64. Left out, the server chooses and says which.",
    )
    temperature: float | None = Field(
        None, ge=0, le=2, allow_inf_nan=False, description="Scales the noise: 0 to 2. Left out, the policy's."
    )
    committed: Committed = Field(
        None,
        description="Of a policy with chunks: the first d actions of the chunk, which the robot will have executed "
        "before the reply arrives. (d, action_dim), or (B, d, action_dim) for B observations, in environment units, "
        "d from 1 to action_horizon - 1. The reply's actions are to be executed from index d on.",
    )
    coherence: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="With `committed`: the share of the candidates that is left out for lying far from it. 0 counts "
        "the value alone, 1 the nearest candidate. Left out, the policy's.",
    )
    model: str | None = Field(None, max_length=200, description="A name from /models; left out, the default one.")
    model_version: str | None = Field(
        None,
        max_length=200,
        description="sha256 of the checkpoint: the one served, or one before it while it stays; else a 409.",
    )
    priority: Whole = Field(5, ge=0, le=9, description="0 is served first, 9 last.")
    return_candidates: bool = Field(False, description="Also return all candidates with their q.")
    request_id: RequestId = Field(None, description="Echoed in the reply; a new one when left out.")

    @property
    def single(self) -> bool:
        """One observation without a row axis: neither has its reply."""
        observation = self.observation
        part = next(iter(observation.values())) if isinstance(observation, Mapping) else observation
        return part.ndim == 1


_FIELDS = frozenset(ActRequest.model_fields)
_NULLABLE = _FIELDS - {"observation"}
_PART = re.compile(r"observation[/.](.+)", re.DOTALL)


def parse_act(fields: dict[str, Any], media_type: str) -> ActRequest:
    """A decoded body as a validated request.

    Raises:
        InvalidRequest: names the first field at fault and what was expected there.
    """
    fields = {
        name: codec.scalar(value, name) if type(value) is dict else value
        for name, value in fields.items()
        if value is not None or name not in _NULLABLE
    }
    if not _FIELDS.issuperset(fields):
        fields = _gathered(fields)
    try:
        return ActRequest.model_validate(fields, context=media_type)
    except ValidationError as error:
        # The first fault only: a batch can have thousands.
        fault = error.errors(include_url=False, include_context=False)[0]
    field = str(fault["loc"][0])
    if fault["type"] == "missing":
        raise InvalidRequest(f"{field}: it is missing", field=field)
    unit = " (milliseconds)" if field == "deadline_ms" else ""  # who is refused may have thought in seconds
    message = fault["msg"].replace("Input should", "it should")
    raise InvalidRequest(f"{field}: {message}{unit}; found {brief(fault['input'])}", field=field)


def _gathered(fields: dict[str, Any]) -> dict[str, Any]:
    """`fields` with what `state`, `observation/NAME` and `observation.NAME` hold as one dict in `observation`.

    Raises:
        InvalidRequest: a field that is none of these, or two that hold the same.
    """
    others: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    spelt: dict[str, str] = {}  # each part's field
    for field, value in fields.items():
        part = _PART.fullmatch(field)
        if part is None and field != "state":
            others[field] = value
            continue
        name = field if part is None else part[1]
        if name in parts:
            _refuse_both(spelt[name], field)
        parts[name], spelt[name] = value, field
    if unknown := others.keys() - _FIELDS:
        field = min(unknown)
        known = ", ".join(ActRequest.model_fields)
        raise InvalidRequest(f"{brief(field)} is not a field of /act; there are {known}", field=field)
    if "observation" in others:
        _refuse_both("observation", next(iter(spelt.values())))
    if len(parts) > 1 and spelt.get("state") == "state":
        _refuse_both("state", next(field for field in spelt.values() if field != "state"))
    return {**others, "observation": parts}


def part_names(fields: dict[str, Any]) -> list[str]:
    """The parts of an observation that a decoded body has, however they are spelt."""
    observation = fields.get("observation")
    names = [part[1] for field in fields if (part := _PART.fullmatch(field))]
    if isinstance(observation, dict) and codec.array_marker(observation) is None:
        names += codec.text_keys(observation)
    return names


def _refuse_both(one: str, other: str) -> NoReturn:
    raise InvalidRequest(f"{brief(one)} and {brief(other)} both hold the observation: give one of them", field=other)


def row_seeds(seed: int | Sequence[int], rows: int) -> NDArray[np.uint64]:
    """(B,) seeds: a list as it is; a scalar s gives row b the seed (s + b) mod 2^64.

    Raises:
        InvalidRequest: a list of another length than B.
    """
    if isinstance(seed, int):
        return np.arange(rows, dtype=np.uint64) + np.uint64(seed)
    if len(seed) != rows:
        refuse("seed", f"one seed, or {rows} of them (one a row of the observation)", f"{len(seed)} of them")
    return np.array(seed, dtype=np.uint64)
