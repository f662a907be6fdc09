"""The Open Inference Protocol, version 2, of KServe and NVIDIA Triton: named tensors, as JSON or as bytes behind it.

    request   {"id"?, "inputs": [tensor], "parameters"?, "outputs"?: [{"name", "parameters"?: {"binary_data"}}]}
    reply     {"model_name", "model_version", "id"?, "outputs": [tensor], "parameters"}
    tensor    {"name", "datatype", "shape", "data"}; in binary {"name", "datatype", "shape", "parameters":
              {"binary_data_size"}}, and its bytes (little-endian, in C order) come behind the JSON

Behind JSON of n bytes all binary tensors follow in their order, and a header says n (`HEADER_LENGTH`). The inputs are
the observation and `committed`, the parameters are other fields of POST /act, and the outputs are an answer's arrays
(`OUTPUTS`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from service.errors import DeadlineExceeded, InvalidRequest, ServiceError
from service.protocol import codec
from service.protocol.codec import brief
from service.protocol.replies import Answer
from service.protocol.schemas import MAX_DEADLINE_MS, whole

HEADER_LENGTH = "Inference-Header-Content-Length"
OBSERVATION = "observation"
COMMITTED = "committed"

_DTYPES = {
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
_MEMBERS = ("id", "model_name", "model_version", "inputs", "outputs", "parameters")
_ACT_PARAMETERS = (
    "num_candidates", "num_steps", "deadline_ms", "on_late", "min_quality", "seed", "temperature", "coherence",
    "model_version",
)  # fmt: skip
_PARAMETERS = (*_ACT_PARAMETERS, "priority", "timeout", "binary_data_output")
_LOWEST_PRIORITY = 10
_MAX_TIMEOUT = MAX_DEADLINE_MS * 1000
_MAX_AXES = 3  # rows, time, numbers


@dataclass(frozen=True)
class Output:
    """An output tensor of every model.

    Attributes:
        datatype: a key of `_DTYPES`.
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
_CANDIDATES = frozenset({"candidates", "candidate_q"})  # computed for requests that name one of them


@dataclass(frozen=True)
class InferRequest:
    """An inference request as any transport brings it.

    Attributes:
        inputs: arrays by name, in a form that `parse_act` reads.
        parameters: plain values by name.
        outputs: the names asked for, each with whether it goes out in binary; None: all but the candidates.
        binary: do outputs go out in binary that say nothing of it?
    """

    inputs: Mapping[str, Any]
    parameters: Mapping[str, Any]
    outputs: Mapping[str, bool] | None
    binary: bool = False

    def act_fields(self, model: str, version: str | None, request_id: str) -> dict[str, Any]:
        """The fields of POST /act, not checked yet.

        Args:
            model, version: as the address names them.
            request_id: what the reply is matched by.

        Raises:
            InvalidRequest: a parameter that there is not, two that say the same, or one of Triton's out of its range.
        """
        given = {name: value for name, value in self.parameters.items() if value is not None}
        unknown = given.keys() - set(_PARAMETERS)
        if unknown:
            name = min(unknown)
            raise InvalidRequest(f"{brief(name)} is not a parameter; there are {', '.join(_PARAMETERS)}", field=name)
        fields = {name: given[name] for name in _ACT_PARAMETERS if name in given}
        if version is not None:
            if given.get("model_version", version) != version:
                _refuse("model_version", f"{brief(version)}, as in the address", brief(given["model_version"]))
            fields["model_version"] = version
        fields |= _priority(given.get("priority", 0)) | _deadline(given.get("timeout", 0), "deadline_ms" in given)
        if self.outputs is not None and not _CANDIDATES.isdisjoint(self.outputs):
            fields["return_candidates"] = True
        # One tensor of this name is all of the observation; else the tensors are its parts.
        parts = dict(self.inputs)
        if COMMITTED in parts:
            fields[COMMITTED] = parts.pop(COMMITTED)
        return {
            "observation": parts[OBSERVATION] if parts.keys() == {OBSERVATION} else parts,
            "model": model,
            "request_id": request_id,
            **fields,
        }

    def name_timeout(self, error: ServiceError) -> None:
        """Let an error about the deadline speak of `timeout`, if that was given."""
        timeout = whole(self.parameters.get("timeout"))
        if timeout and isinstance(error, DeadlineExceeded):
            error.name_deadline("timeout", timeout, "microseconds")

    def reply_outputs(self, answer: Answer) -> Iterator[tuple[str, str, NDArray[Any], bool]]:
        """(name, datatype, values, in binary?) of each output. For an observation without a row axis actions and
        candidates have none either; the others keep theirs, of size 1.
        """
        wanted = dict.fromkeys(OUTPUTS, self.binary) if self.outputs is None else self.outputs
        for name, binary in wanted.items():
            output = OUTPUTS[name]
            values = output.values(answer)
            if values is None:
                continue
            rows = values[0] if answer.single and values.ndim > 1 else values
            yield name, output.datatype, np.ascontiguousarray(rows, _DTYPES[output.datatype]), binary


def _priority(value: Any) -> dict[str, Any]:
    """Triton's: 1 is served first, 0 stands for the default. POST /act's is one less."""
    value = whole(value)
    if type(value) is not int or not 0 <= value <= _LOWEST_PRIORITY:
        _refuse("priority", f"1 (served first) to {_LOWEST_PRIORITY}, or 0 for the default", brief(value))
    return {} if value == 0 else {"priority": value - 1}


def _deadline(timeout: Any, deadline_too: bool) -> dict[str, Any]:
    """Triton's timeout: in microseconds, and 0 is none."""
    timeout = whole(timeout)
    if type(timeout) is not int or not 0 <= timeout <= _MAX_TIMEOUT:
        _refuse("timeout", f"a whole number of microseconds, at most {_MAX_TIMEOUT} (an hour)", brief(timeout))
    if timeout == 0:
        return {}
    if deadline_too:
        _refuse("timeout", "either it or deadline_ms", "both")
    return {"deadline_ms": timeout / 1000}


_PARAMETERS_SCHEMA = {"type": "object", "additionalProperties": {"type": ["boolean", "number", "string"]}}
_TENSOR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "datatype": {"enum": list(_DTYPES)},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": _MAX_AXES},
        "data": {"type": "array", "description": "Numbers, flat or in lists of the tensor's shape."},
        "parameters": {"type": "object", "properties": {"binary_data_size": {"type": "integer", "minimum": 0}}},
    },
    "required": ["name", "datatype", "shape"],
}

REQUEST_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "inputs": {"type": "array", "items": _TENSOR_SCHEMA, "minItems": 1},
        "outputs": {
            "type": "array",
            "items": {"type": "object", "properties": {"name": {"enum": list(OUTPUTS)}}, "required": ["name"]},
        },
        "parameters": {**_PARAMETERS_SCHEMA, "propertyNames": {"enum": list(_PARAMETERS)}},
    },
    "required": ["inputs"],
}
REPLY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {
            "type": "array",
            "items": {
                **_TENSOR_SCHEMA,
                "properties": {
                    **_TENSOR_SCHEMA["properties"],
                    "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}},
                },
            },
        },
        "parameters": _PARAMETERS_SCHEMA,
    },
    "required": ["model_name", "model_version", "outputs", "parameters"],
    "additionalProperties": False,
}
ERROR_SCHEMA = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}


def decode(body: bytes, header_length: str | None) -> tuple[dict[str, Any], bytes]:
    """A request's body as its JSON members and the bytes behind them.

    Args:
        header_length: the header `HEADER_LENGTH`; None: all of the body is JSON.

    Raises:
        InvalidRequest: a length that there is not, no JSON, or unknown members.
    """
    length = len(body)
    if header_length is not None:
        if not header_length.isdecimal() or len(header_length) > 20 or not 0 < int(header_length) <= len(body):
            _refuse(HEADER_LENGTH, f"the length of the JSON, 1 to {len(body)} bytes (all of the body)", header_length)
        length = int(header_length)
    members = codec.decode(body[:length], codec.JSON, needs="inputs")
    unknown = members.keys() - set(_MEMBERS)
    if unknown:
        name = min(unknown)
        raise InvalidRequest(
            f"{brief(name)} is not a member of an inference request; there are {', '.join(_MEMBERS)}", field=name
        )
    return members, body[length:]


def parse_infer(members: Mapping[str, Any], binary_data: bytes) -> InferRequest:
    """What `decode` returned, as an inference request.

    Raises:
        InvalidRequest: names the member, tensor or parameter at fault.
    """
    parameters = _object(members.get("parameters"), "parameters")
    binary = _flag(parameters.get("binary_data_output"), "binary_data_output")
    outputs = members.get("outputs")
    return InferRequest(
        _inputs(members.get("inputs"), binary_data),
        parameters,
        _outputs(outputs, binary) if outputs else None,
        binary,
    )


def encode_reply(
    answer: Answer, request: InferRequest, given_id: str | None, timing: Callable[[], dict[str, float]]
) -> tuple[bytes, int | None]:
    """A reply's body and, if there are binary outputs, the length of its JSON.

    Args:
        given_id: the request's own, which the reply echoes.
        timing: ends the measurement of `Timing` and returns it; called when all else is encoded.
    """
    outputs, tail = [], []
    for name, datatype, values, binary in request.reply_outputs(answer):
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": values.shape}
        if binary:
            tensor["parameters"] = {"binary_data_size": values.nbytes}
            tail.append(values.tobytes())
        else:
            tensor["data"] = values.ravel()
        outputs.append(tensor)
    head = {"model_name": answer.model, "model_version": answer.model_version, "outputs": outputs}
    if given_id is not None:
        head["id"] = given_id
    encoded = codec.encode(head, codec.JSON)
    body = codec.append(encoded, {"parameters": reply_parameters(answer, timing())}, codec.JSON)
    return b"".join((body, *tail)), len(body) if tail else None


def reply_parameters(answer: Answer, timing: Mapping[str, float]) -> dict[str, bool | float | str]:
    """What a reply says beside its tensors: members of POST /act's, `timing_ms` as queue_ms, compute_ms, total_ms."""
    return {
        "request_id": answer.request_id,
        "engine": answer.reply.engine,
        "degraded": answer.request.degraded,
        **{f"{name}_ms": milliseconds for name, milliseconds in timing.items()},
    }


def encode_error(error: ServiceError) -> bytes:
    """An error's body. It is ASCII: a detail may quote lone surrogates, which UTF-8 can't encode."""
    return json.dumps({"error": error_text(error)}).encode("ascii")


def error_text(error: ServiceError) -> str:
    """`code: detail`."""
    return f"{error.code}: {error.detail}"


def error_responses(meanings: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` for /docs, from the codes of each status."""
    content = {codec.JSON: {"schema": ERROR_SCHEMA}}
    return {status: {"description": f"code: {codes}", "content": content} for status, codes in meanings.items()}


def model_metadata(description: Mapping[str, Any], versions: Sequence[str]) -> dict[str, Any]:
    """Inputs and outputs of a model, as `Catalog.describe` has it. -1 is any number of rows."""
    return {
        "name": description["name"],
        "versions": versions,
        "platform": "sorl",
        "inputs": [
            {"name": name, "datatype": "FP32", "shape": [-1, size]} for name, size in _input_sizes(description).items()
        ],
        "outputs": [
            {"name": name, "datatype": output.datatype, "shape": [-1, *_sizes(output, description)]}
            for name, output in OUTPUTS.items()
        ],
    }


def model_config(description: Mapping[str, Any]) -> dict[str, Any]:
    """The same in the form of Triton's configurations, where shapes are those of one row, with what /models says of
    budgets and limits as parameters in JSON.
    """
    shown = (
        "action_horizon", "control_hz", "default_budget", "max_candidates", "max_steps", "max_seconds", "action_low",
        "action_high",
    )  # fmt: skip
    return {
        "name": description["name"],
        "platform": "sorl",
        "backend": description["engine"],
        "max_batch_size": description["max_batch"],
        "input": [
            {"name": name, "data_type": "TYPE_FP32", "dims": [size]} for name, size in _input_sizes(description).items()
        ],
        "output": [
            {"name": name, "data_type": f"TYPE_{output.datatype}", "dims": _sizes(output, description)}
            for name, output in OUTPUTS.items()
        ],
        "parameters": {name: {"string_value": json.dumps(description[name])} for name in shown},
    }


def repository_index(versions: Iterable[tuple[str, str]], ready: bool) -> list[dict[str, str]]:
    """Triton's list of models, from names and current versions."""
    state = "READY" if ready else "UNAVAILABLE"
    return [{"name": name, "version": version, "state": state, "reason": ""} for name, version in versions]


def _input_sizes(description: Mapping[str, Any]) -> dict[str, int]:
    """The parts of the observation by name. A policy that has them takes one vector, too."""
    parts = {part["name"]: part["size"] for part in description["observation_keys"]}
    return parts or {OBSERVATION: description["obs_dim"]}


def _sizes(output: Output, description: Mapping[str, Any]) -> list[int]:
    horizon, action_dim = description["action_horizon"], description["action_dim"]
    chunk = [action_dim] if horizon == 1 else [horizon, action_dim]
    sizes: list[int] = []
    for name in output.shape:
        sizes += [-1] if name is None else chunk
    return sizes


def _inputs(tensors: Any, binary_data: bytes) -> dict[str, Any]:
    """Arrays by name. Those in binary are views of nothing but their own bytes of `binary_data`."""
    if not isinstance(tensors, list) or not tensors:
        _refuse("inputs", "a list of at least one tensor", brief(tensors))
    inputs: dict[str, Any] = {}
    start = 0
    for tensor in tensors:
        name = _name(tensor, "inputs")
        if name in inputs:
            raise InvalidRequest(f"inputs: {brief(name)} is there twice", field=name)
        parameters = _object(tensor.get("parameters"), name)
        size = parameters.get("binary_data_size")
        unknown = parameters.keys() - {"binary_data_size"}
        if unknown:  # shared memory, for one: silence would lose the observation
            _refuse(name, "no parameter but binary_data_size", brief(min(unknown)))
        if (size is None) == ("data" not in tensor):
            _refuse(name, "either data or the parameter binary_data_size", "neither" if size is None else "both")
        if size is None:
            data = tensor["data"]
        else:
            if type(size) is not int or not 0 <= size <= len(binary_data) - start:
                found = f"{brief(size)}; {len(binary_data) - start} bytes are left behind the JSON"
                _refuse(name, "binary_data_size as a number of bytes", found)
            data, start = binary_data[start : start + size], start + size
        inputs[name] = input_array(name, tensor.get("datatype"), tensor.get("shape"), data)
    if start != len(binary_data):
        _refuse("inputs", f"{start} bytes behind the JSON, by their binary_data_size", f"{len(binary_data)} bytes")
    return inputs


def input_array(name: str, datatype: Any, shape: Any, data: Any) -> dict[str, Any] | list[Any]:
    """A tensor in a form that `parse_act` reads: bytes as an encoded array, numbers as lists of the tensor's shape.

    Args:
        data: bytes; or numbers in a flat list, or in lists of the tensor's shape.

    Raises:
        InvalidRequest: no datatype of numbers, no shape, or data of another size.
    """
    dtype = _DTYPES.get(datatype) if isinstance(datatype, str) else None
    if dtype is None:
        _refuse(name, f"a datatype of {', '.join(_DTYPES)}", brief(datatype))
    if not _is_shape(shape):
        _refuse(name, f"a shape of 1 to {_MAX_AXES} sizes above 0", brief(shape))
    if isinstance(data, bytes):
        return {"__ndarray__": True, "data": data, "dtype": dtype, "shape": shape}
    if not isinstance(data, list):
        _refuse(name, "data as a list of numbers", brief(data))
    if not data or type(data[0]) is not list:
        if len(data) != math.prod(shape):
            _refuse(name, f"{math.prod(shape)} numbers for shape {brief(shape)}", f"{len(data)} numbers")
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
        _refuse(name, f"flat data, or lists of shape {brief(shape)}", f"lists of shape {brief(found)}")
    return data


def _is_shape(value: Any) -> bool:
    sizes = isinstance(value, list) and all(type(size) is int and 0 < size < 2**31 for size in value)
    return sizes and 1 <= len(value) <= _MAX_AXES


def _outputs(outputs: Any, binary: bool) -> dict[str, bool]:
    """Whether each output asked for goes out in binary, by name."""
    if not isinstance(outputs, list):
        _refuse("outputs", "a list of objects with a name", brief(outputs))
    wanted: dict[str, bool] = {}
    for output in outputs:
        name = _name(output, "outputs")
        parameters = _object(output.get("parameters"), name)
        unknown = parameters.keys() - {"binary_data"}
        if unknown:
            _refuse(name, "no parameter but binary_data", brief(min(unknown)))
        wanted[name] = _flag(parameters.get("binary_data"), name, binary)
    check_outputs(wanted)
    return wanted


def check_outputs(names: Mapping[str, object]) -> None:
    """Raises InvalidRequest for an output that there is not."""
    unknown = names.keys() - OUTPUTS.keys()
    if unknown:
        name = min(unknown)
        raise InvalidRequest(f"outputs: {brief(name)} is not an output; there are {', '.join(OUTPUTS)}", field=name)


def _name(tensor: Any, member: str) -> str:
    name = tensor.get("name") if isinstance(tensor, dict) else None
    if not isinstance(name, str):
        _refuse(member, "objects with a name", brief(tensor))
    return name


def _object(value: Any, field: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        _refuse(field, "parameters as an object", brief(value))
    return value


def _flag(value: Any, field: str, otherwise: bool = False) -> bool:
    if value is None:
        return otherwise
    if not isinstance(value, bool):
        _refuse(field, "true or false", brief(value))
    return value


def _refuse(field: str, expected: str, found: str) -> NoReturn:
    raise InvalidRequest(f"{field}: expected {expected}; found {found}", field=field)
