"""Inference requests, and the fields of POST /act that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.errors import InvalidRequest
from service.protocol import codec
from service.protocol.codec import brief, refuse
from service.protocol.open_inference.parameters import act_parameters
from service.protocol.open_inference.tensors import (
    CANDIDATES,
    COMMITTED,
    OBSERVATION,
    check_outputs,
    input_array,
    usual_outputs,
)

HEADER_LENGTH = "Inference-Header-Content-Length"

_MEMBERS = ("id", "model_name", "model_version", "inputs", "outputs", "parameters")


@dataclass(frozen=True)
class InferRequest:
    """An inference request as any transport brings it.

    Attributes:
        inputs: arrays by name, in a form that `parse_act` reads.
        parameters: plain values by name.
        outputs: the names of those that go out, each with whether in binary.
    """

    inputs: Mapping[str, Any]
    parameters: Mapping[str, Any]
    outputs: Mapping[str, bool]

    def act_fields(self, model: str, version: str | None, request_id: str) -> dict[str, Any]:
        """The fields of POST /act, not checked yet.

        Args:
            model, version: as the address names them.
            request_id: what the reply is matched by.

        Raises:
            InvalidRequest: a parameter that there is not, two that say the same, or one of Triton's out of its range.
        """
        fields = act_parameters(self.parameters, version)
        if not CANDIDATES.isdisjoint(self.outputs):
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
            refuse(HEADER_LENGTH, f"the length of the JSON, 1 to {len(body)} bytes (all of the body)", header_length)
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
        _outputs(outputs, binary) if outputs else usual_outputs(binary),
    )


def _inputs(tensors: Any, binary_data: bytes) -> dict[str, Any]:
    """Arrays by name. Those in binary are views of nothing but their own bytes of `binary_data`."""
    if not isinstance(tensors, list) or not tensors:
        refuse("inputs", "a list of at least one tensor", brief(tensors))
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
            refuse(name, "no parameter but binary_data_size", brief(min(unknown)))
        if (size is None) == ("data" not in tensor):
            refuse(name, "either data or the parameter binary_data_size", "neither" if size is None else "both")
        if size is None:
            data = tensor["data"]
        else:
            if type(size) is not int or not 0 <= size <= len(binary_data) - start:
                found = f"{brief(size)}; {len(binary_data) - start} bytes are left behind the JSON"
                refuse(name, "binary_data_size as a number of bytes", found)
            data, start = binary_data[start : start + size], start + size
        inputs[name] = input_array(name, tensor.get("datatype"), tensor.get("shape"), data)
    if start != len(binary_data):
        refuse("inputs", f"{start} bytes behind the JSON, by their binary_data_size", f"{len(binary_data)} bytes")
    return inputs


def _outputs(outputs: Any, binary: bool) -> dict[str, bool]:
    """Whether each output asked for goes out in binary, by name."""
    if not isinstance(outputs, list):
        refuse("outputs", "a list of objects with a name", brief(outputs))
    wanted: dict[str, bool] = {}
    for output in outputs:
        name = _name(output, "outputs")
        parameters = _object(output.get("parameters"), name)
        unknown = parameters.keys() - {"binary_data"}
        if unknown:
            refuse(name, "no parameter but binary_data", brief(min(unknown)))
        wanted[name] = _flag(parameters.get("binary_data"), name, binary)
    check_outputs(wanted)
    return wanted


def _name(tensor: Any, member: str) -> str:
    name = tensor.get("name") if isinstance(tensor, dict) else None
    if not isinstance(name, str):
        refuse(member, "objects with a name", brief(tensor))
    return name


def _object(value: Any, field: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        refuse(field, "parameters as an object", brief(value))
    return value


def _flag(value: Any, field: str, otherwise: bool = False) -> bool:
    if value is None:
        return otherwise
    if not isinstance(value, bool):
        refuse(field, "true or false", brief(value))
    return value
