"""What there is to ask for: JSON schemas of requests and replies for /docs, and models with their tensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from service.protocol import codec
from service.protocol.open_inference.parameters import PARAMETERS
from service.protocol.open_inference.tensors import DTYPES, MAX_AXES, OBSERVATION, OUTPUTS, Output

_PARAMETERS_SCHEMA = {"type": "object", "additionalProperties": {"type": ["boolean", "number", "string"]}}
_TENSOR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "datatype": {"enum": list(DTYPES)},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": MAX_AXES},
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
        "parameters": {**_PARAMETERS_SCHEMA, "propertyNames": {"enum": list(PARAMETERS)}},
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
