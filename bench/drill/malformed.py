"""Malformed requests of every protocol: invalid for every policy with an obs_dim above 1."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgpack  # type: ignore[import-untyped, unused-ignore]
import numpy as np

from bench.protocols import PROTOCOLS, Ask, ProtocolName
from bench.protocols.open_inference_grpc import input_tensor, parameter, request_fields
from bench.protocols.protobuf import field

Malformed = tuple[bytes, Mapping[str, str]]
"""A payload, and headers for protocols that have them."""

OPTIONS: tuple[dict[str, Any], ...] = (
    {"num_candidates": 0},
    {"num_steps": 10_000_000_000},
    {"candidates": 4},
    {"seed": -1},
    {"deadline_ms": "soon"},
)
ROW = [0.5, 0.5, 0.5]
ROW_BYTES = np.array(ROW, "<f4").tobytes()


def malformed_request(protocol: ProtocolName, ask: Ask) -> bytes:
    """One of the protocol's malformed requests: which one depends on the seed of `ask`. The id is beside it where the
    protocol has a place for it, because a malformed payload can't be read."""
    payloads = _MALFORMED[protocol]
    payload, headers = payloads[ask.seed % len(payloads)]
    return PROTOCOLS[protocol].wrap(ask, payload, headers)


def _json() -> Iterator[Malformed]:
    yield b"", {}
    yield b'{"observation": [1, 2', {}
    yield b"[" * 10_000, {}
    yield b'{"observation": [1, NaN, 2]}', {}
    yield b'{"observation": [1e39]}', {}
    yield b'{"observation": "all of it"}', {}
    yield b'{"observation": [[1, 2], [3]]}', {}
    yield b"\xff\xfe\x00", {}
    yield b"observation=1", {"Content-Type": "application/x-www-form-urlencoded"}
    for options in OPTIONS:
        yield json.dumps({"observation": ROW, **options}).encode(), {}


def _msgpack() -> Iterator[Malformed]:
    """Of POST /act and of openpi's frames."""
    array = {b"__ndarray__": True, b"data": ROW_BYTES, b"dtype": "<f4", b"shape": [3]}
    yield b"", {}
    yield b"\xc1", {}
    yield msgpack.packb({"observation": ROW})[:-3], {}
    yield b"\x91" * 10_000 + b"\x00", {}
    yield msgpack.packb(ROW), {}
    yield msgpack.packb({"observation": [1.0, float("nan"), 2.0]}), {}
    yield msgpack.packb({"observation": "all of it"}), {}
    yield msgpack.packb({"observation": {**array, b"shape": [28]}}), {}
    yield msgpack.packb({"observation": {**array, b"dtype": "|O"}}), {}
    yield msgpack.packb({"observation": {b"nd": True, b"type": "O", b"kind": b"O", b"shape": [1], b"data": b"."}}), {}
    for options in OPTIONS:
        yield msgpack.packb({"observation": array, **options}), {}


def _openvla() -> Iterator[Malformed]:
    array = {"__numpy__": base64.b64encode(ROW_BYTES).decode(), "dtype": "<f4", "shape": [3]}
    yield json.dumps({"observation": array}).encode()[:-3], {}
    yield json.dumps({"observation": {**array, "__numpy__": "?"}}).encode(), {}
    yield json.dumps({"observation": {**array, "dtype": "|O"}}).encode(), {}
    yield json.dumps({"observation": {**array, "shape": [28]}}).encode(), {}
    yield b'{"encoded": 1}', {}
    yield b'{"encoded": "{"}', {}
    for options in OPTIONS:
        yield json.dumps({"observation": array, **options}).encode(), {}


def _open_inference_json() -> Iterator[Malformed]:
    tensor = {"name": "observation", "datatype": "FP32", "shape": [1, 3], "data": ROW}
    yield b"", {}
    yield b'{"inputs": [', {}
    yield b'{"inputs": []}', {}
    yield json.dumps({"inputs": [{**tensor, "datatype": "BYTES"}]}).encode(), {}
    yield json.dumps({"inputs": [{**tensor, "shape": [1, 28]}]}).encode(), {}
    yield json.dumps({"inputs": [{**tensor, "data": "all of it"}]}).encode(), {}
    yield json.dumps({"inputs": [{**tensor, "data": [1, float("nan"), 2]}]}).encode(), {}
    yield json.dumps({"inputs": [tensor, tensor]}).encode(), {}
    yield json.dumps({"inputs": [tensor], "outputs": [{"name": "nobody"}]}).encode(), {}
    for options in OPTIONS:
        yield json.dumps({"inputs": [tensor], "parameters": options}).encode(), {}


def _open_inference_binary() -> Iterator[Malformed]:
    def request(size: int, tail: bytes, more: int = 0, **options: Any) -> Malformed:
        tensor = {"name": "observation", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": size}}
        head = json.dumps({"inputs": [tensor], "parameters": options}).encode()
        return head + tail, {"Inference-Header-Content-Length": str(len(head) + more)}

    yield request(len(ROW_BYTES), ROW_BYTES[:-1])
    yield request(len(ROW_BYTES), ROW_BYTES + b"\x00")
    yield request(len(ROW_BYTES) - 1, ROW_BYTES)
    yield request(-1, ROW_BYTES)
    yield request(len(ROW_BYTES), ROW_BYTES, more=5)
    yield request(len(ROW_BYTES), ROW_BYTES, more=1000)
    yield request(len(ROW_BYTES), np.array([1.0, np.nan, 2.0], "<f4").tobytes())
    for options in OPTIONS:
        yield request(len(ROW_BYTES), ROW_BYTES, **options)


def _open_inference_grpc() -> Iterator[Malformed]:
    tensor = input_tensor((1, 3))
    whole = request_fields([tensor], [ROW_BYTES], {})
    contents = field(5, field(6, ROW_BYTES))  # of an input: fp32_contents
    yield b"", {}
    yield whole[:-3], {}
    yield b"\xff" * 11, {}  # a number of more than 64 bits
    yield field(5, 7), {}  # an input that is a number
    yield b"\x2b" * 10_000, {}  # groups within groups
    yield request_fields([input_tensor((1, 3), b"\xff\xfe")], [ROW_BYTES], {}), {}  # a name that is no text
    yield request_fields([input_tensor((1, 3), datatype="BYTES")], [ROW_BYTES], {}), {}
    yield request_fields([input_tensor((1, 28))], [ROW_BYTES], {}), {}
    yield request_fields([input_tensor((-1, -3))], [ROW_BYTES], {}), {}
    yield request_fields([tensor], [ROW_BYTES[:-1]], {}), {}
    yield request_fields([tensor], [ROW_BYTES + b"\x00"], {}), {}
    yield request_fields([tensor], [ROW_BYTES, ROW_BYTES], {}), {}
    yield request_fields([tensor + contents], [ROW_BYTES], {}), {}
    yield request_fields([tensor, tensor], [ROW_BYTES, ROW_BYTES], {}), {}
    yield request_fields([tensor + field(4, parameter("shared_memory_region", "r"))], [ROW_BYTES], {}), {}
    yield request_fields([tensor], [np.array([1.0, np.nan, 2.0], "<f4").tobytes()], {}), {}
    yield whole + field(6, field(1, "nobody")), {}  # an output
    for options in OPTIONS:
        yield request_fields([tensor], [ROW_BYTES], options), {}


def _groot() -> Iterator[Malformed]:
    def message(state: Any, endpoint: str = "get_action", **options: Any) -> Malformed:
        data = {"observation": {"state": state}, "options": options}
        return msgpack.packb({"endpoint": endpoint, "data": data}), {}

    def array(values: np.ndarray) -> dict[str, Any]:
        file = io.BytesIO()
        np.save(file, values, allow_pickle=True)  # a client may send a pickle; the server must not read it
        return {"__ndarray_class__": True, "as_npy": file.getvalue()}

    row = array(np.array([[ROW]], np.float32))
    yield b"", {}
    yield b"\xc1", {}
    yield msgpack.packb({"endpoint": "get_action"})[:-3], {}
    yield msgpack.packb(ROW), {}
    yield message(row, "kill")
    yield message(array(np.array([[[0.5, None, 0.5]]], object)))
    yield message({**row, "as_npy": row["as_npy"][:-1]})
    yield message({**row, "as_npy": b"\x93NUMPY\x01\x00\xff\xff"})
    yield message("all of it")
    for options in OPTIONS:
        yield message(row, **options)


_MALFORMED: Mapping[ProtocolName, list[Malformed]] = {
    "http-json": [*_json()],
    "http-msgpack": [*_msgpack()],
    "openvla": [*_openvla()],
    "openpi": [*_msgpack()],
    "open-inference-json": [*_open_inference_json()],
    "open-inference-binary": [*_open_inference_binary()],
    "open-inference-grpc": [*_open_inference_grpc()],
    "groot": [*_groot()],
}
