"""Valid messages of every protocol and file, as plain values: what inputs are made from."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib import format as npy

from service.grpc.messages import MESSAGES
from service.protocol import ActRequest
from service.recording.format import Record
from service.sample import SampleRequest

Message = dict[Any, Any]

VECTOR = [0.5, -1.0, 0.25]
ROWS = np.array([VECTOR, VECTOR], np.float32)
SEEDS = np.array([1, 2**64 - 1], np.uint64)

FIELDS = {
    "num_candidates": 8, "num_steps": 4, "deadline_ms": 20.0, "on_late": "reject", "seed": 7, "temperature": 0.5,
    "min_quality": 0.9, "model": "small", "model_version": "0" * 64, "priority": 3, "return_candidates": True,
    "request_id": "r1",
}  # fmt: skip
ACT: list[Message] = [
    {"observation": VECTOR},
    {"observation": [VECTOR, VECTOR], "seed": ["18446744073709551615", 1]},
    {"observation": [[VECTOR]], **FIELDS},
    {"state": VECTOR, "seed": None},
    {"observation": {"arm": VECTOR, "gripper": 0.5}},
    {"observation/arm": VECTOR, "observation.gripper": [1], "temperature": 0},
]
ACT_NAMES: list[str | bytes] = [
    *ActRequest.model_fields, "state", "observation/arm", "observation.arm", "encoded", "shape", "dtype", "data",
    b"shape", b"data", b"dtype", b"nd", b"__ndarray__", b"__npgeneric__", "__numpy__",
]  # fmt: skip


def json_numpy(array: np.ndarray) -> Message:
    data = base64.b64encode(array.tobytes()).decode()
    return {"__numpy__": data, "dtype": array.dtype.str, "shape": list(array.shape)}


def openpi_numpy(array: np.ndarray) -> Message:
    return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": array.dtype.str, b"shape": list(array.shape)}


def msgpack_numpy(array: np.ndarray) -> Message:
    head = {b"nd": True, b"type": array.dtype.str, b"kind": b"", b"shape": list(array.shape)}
    return {**head, b"data": array.tobytes()}


def groot_numpy(array: np.ndarray) -> Message:
    file = io.BytesIO()
    npy.write_array(file, array, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def with_arrays(encode: Callable[[np.ndarray], Message]) -> list[Message]:
    """Requests whose numbers are arrays, as `encode` has them."""
    return [
        {"observation": encode(ROWS), "seed": encode(SEEDS)},
        {"observation": encode(ROWS[:, None].astype(">f8")), "temperature": encode(np.array(0.5))},
        {"observation": {"arm": encode(ROWS[0]), "gripper": encode(np.array(1, np.int16))}, "num_steps": 4},
        {"state": encode(ROWS[0].astype(np.float16)), "return_candidates": encode(np.array(True))},
    ]


ACT_JSON_NUMPY = with_arrays(json_numpy)
ACT_MSGPACK = [*ACT, *with_arrays(openpi_numpy), *with_arrays(msgpack_numpy)]
OPENPI = [ACT[0], *ACT[2:], {"__ctrl__": "episode_start"}, *with_arrays(openpi_numpy)[2:]]
VLLM_OMNI = [
    {"endpoint": "infer", "session_id": "s", **ACT[0], "sampling_params": {"num_inference_steps": 4}},
    {"endpoint": "reset", "session_id": "s"},
    *with_arrays(openpi_numpy)[2:],
]

INFER: list[Message] = [
    {"inputs": [{"name": "observation", "datatype": "FP32", "shape": [3], "data": VECTOR}]},
    {
        "id": "r1",
        "inputs": [
            {"name": "arm", "datatype": "FP64", "shape": [2, 1, 3], "data": [[VECTOR], [VECTOR]]},
            {"name": "gripper", "datatype": "INT8", "shape": [2, 1], "data": [0, 1]},
        ],
        "parameters": {
            "num_steps": 2, "num_candidates": 8, "seed": 7, "timeout": 5000, "priority": 1, "temperature": 0.5,
            "on_late": "reject", "binary_data_output": True,
        },
        "outputs": [{"name": "action", "parameters": {"binary_data": False}}, {"name": "candidate_q"}],
    },
]  # fmt: skip
INFER_NAMES: list[str | bytes] = [
    "id", "inputs", "outputs", "parameters", "name", "datatype", "shape", "data", "binary_data_size", "binary_data",
    "model_name", "observation", "timeout", "deadline_ms",
]  # fmt: skip
INFER_TAIL = ROWS.tobytes()
"""Behind each of `INFER_BINARY`."""
INFER_BINARY: list[Message] = [
    {"inputs": [{"name": "state", "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": 24}}]},
    {
        "inputs": [
            {"name": "arm", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}},
            {"name": "gripper", "datatype": "FP32", "shape": [1, 3], "data": VECTOR},
            {"name": "hand", "datatype": "FP16", "shape": [1, 6], "parameters": {"binary_data_size": 12}},
        ]
    },
]


def infer_grpc() -> list[bytes]:
    """Raw contents as tritonclient 2.73 sends them, and contents of two types."""
    triton = (
        b'\n\x05small\x1a\x01r"\n\n\x04seed\x12\x02\x10\x03"\x18\n\x0btemperature\x12\t!\x00\x00\x00\x00\x00\x00\xe0?'
        b'"\x13\n\x07on_late\x12\x08\x1a\x06reject"\x0e\n\x07timeout\x12\x03\x10\x88\'"\x0e\n\x08priority\x12\x02(\x02'
        b"*\x17\n\x0bobservation\x12\x04FP32\x1a\x02\x01\x022\x08\n\x06action:\x08\x00\x00\x80?\x00\x00\x00@"
    )
    message = MESSAGES["ModelInferRequest"](id="r1", model_name="small")
    message.inputs.add(name="arm", datatype="FP64", shape=[2, 3]).contents.fp64_contents.extend(VECTOR * 2)
    message.inputs.add(name="gripper", datatype="INT16", shape=[2, 1]).contents.int_contents.extend([0, -1])
    message.outputs.add(name="q")
    return [triton, message.SerializeToString()]


def groot_call(observation: Any, options: Any = None) -> Message:
    data = {"observation": observation, "options": options}
    return {"endpoint": "get_action", "data": data, "api_token": "k"}


GROOT = [
    groot_call({"state": {"arm": groot_numpy(ROWS[:, None]), "gripper": groot_numpy(ROWS[:, None, :1])}, "video": {}}),
    groot_call({"state.arm": groot_numpy(np.asfortranarray(ROWS)), "language": []}, {"num_steps": 4, "seed": 1}),
    groot_call({"state": groot_numpy(ROWS.astype(">f8"))}, {"temperature": 0.5}),
    groot_call(groot_numpy(ROWS[0]), FIELDS),
    {"endpoint": "get_modality_config", "data": {"model": "small"}},
    {"endpoint": "ping"},
]
GROOT_NAMES: list[str | bytes] = [
    *ACT_NAMES, "endpoint", "data", "api_token", "options", "state.arm", "video", "__ndarray_class__", "as_npy",
]  # fmt: skip

_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
KEYS = [
    f'robot-7 = {{ roles = ["act"], sha256 = "{_DIGEST}", requests_per_second = 50, rows_per_second = 2e4 }}'.encode(),
    f'# people\n[operator]\nroles = ["admin", "metrics"]\nsha256 = ["{_DIGEST}", "{"0" * 64}"]\n'.encode(),
]

RECORDING_HEAD = {"sorl_recording": 1, "checkpoint": "small.safetensors", "created": "2026-11-29T12:00:00+00:00"}


def _record(rows: int) -> Message:
    request = SampleRequest(ROWS[:rows], 8, 4, SEEDS[:rows], 0.5)
    record = Record(1.5, "r", "small", "0" * 64, "engine", request, ROWS[:rows, :2], ROWS[:rows, 0])
    value: Message = json.loads(record.to_json())
    return value


RECORDS = [_record(1), _record(2)]
