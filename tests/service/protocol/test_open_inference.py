"""The Open Inference Protocol's bytes and fields: golden bytes of Triton's client, and every error by name."""

from __future__ import annotations

import contextlib
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import DeadlineExceeded, InvalidRequest
from service.protocol import ActRequest, Answer, codec, open_inference, parse_act
from service.protocol.open_inference import (
    InferRequest,
    decode,
    encode_error,
    encode_reply,
    name_timeout,
    parse_infer,
    usual_outputs,
)
from service.sample import SampleReply, SampleRequest

# What tritonclient 2.73 sends for [[1, 2]].
BINARY = (
    b'{"id":"r","inputs":[{"name":"observation","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}}],'
    b'"parameters":{"binary_data_output":true,"seed":3}}\x00\x00\x80?\x00\x00\x00@'
)
JSON = (
    b'{"inputs":[{"name":"observation","shape":[1,2],"datatype":"FP32","data":[1.0,2.0]}],'
    b'"outputs":[{"name":"action","parameters":{"binary_data":false}}]}'
)
TENSOR = {"name": "observation", "shape": [2], "datatype": "FP32", "data": [1.0, 2.0]}


def read(body: bytes, length: int | str | None = None, version: str | None = None) -> tuple[InferRequest, ActRequest]:
    request = parse_infer(*decode(body, None if length is None else str(length)))
    return request, parse_act(request.act_fields("small", version, "id"), codec.JSON)


def asked(**members: Any) -> ActRequest:
    return read(json.dumps({"inputs": [TENSOR], **members}).encode())[1]


def answer(*, single: bool = False, candidates: bool = False) -> Answer:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)[: 1 if single else 2]
    q = np.array([0.5, -1], np.float32)[: len(rows)]
    many = {"candidates": np.stack([rows, rows], 1), "candidate_q": np.stack([q, q], 1)} if candidates else {}
    seeds = np.array([2**64 - 1, 0], np.uint64)[: len(rows)]
    return Answer(
        reply=SampleReply(rows, q, q + 1, q, q + 2, "engine/x", **many),
        request=SampleRequest(rows, 2, 4, seeds, degraded="load"),
        single=single,
        seed=2**64 - 1,
        model="small",
        model_version="abc",
        request_id="r",
    )


def timing() -> dict[str, float]:
    return {"queue": 0.5, "compute": 1.0, "total": 2.0}


def test_what_tritons_client_sends() -> None:
    request, act = read(BINARY, len(BINARY) - 8)
    assert act.observation.tolist() == [[1, 2]]
    assert (act.model, act.model_version, act.request_id, act.seed) == ("small", None, "id", 3)
    all_but_candidates = ("action", "q", "q_std", "observation_z_max", "num_candidates", "num_steps", "seed")
    assert request.outputs == dict.fromkeys(all_but_candidates, True)
    request, act = read(JSON)
    assert act.observation.tolist() == [[1, 2]]
    assert request.outputs == {"action": False}
    assert not act.return_candidates


def test_what_goes_out_in_json() -> None:
    body, length = encode_reply(answer(), usual_outputs(), "r-7", timing)
    assert length is None
    reply = json.loads(body)
    assert [reply[name] for name in ("model_name", "model_version", "id")] == ["small", "abc", "r-7"]
    assert reply["outputs"] == [
        {"name": "action", "datatype": "FP32", "shape": [2, 3], "data": [0, 1, 2, 3, 4, 5]},
        {"name": "q", "datatype": "FP32", "shape": [2], "data": [0.5, -1]},
        {"name": "q_std", "datatype": "FP32", "shape": [2], "data": [1.5, 0]},
        {"name": "observation_z_max", "datatype": "FP32", "shape": [2], "data": [2.5, 1]},
        {"name": "num_candidates", "datatype": "INT32", "shape": [2], "data": [2, 2]},
        {"name": "num_steps", "datatype": "INT32", "shape": [2], "data": [4, 4]},
        {"name": "seed", "datatype": "UINT64", "shape": [2], "data": [2**64 - 1, 0]},
    ]
    assert reply["parameters"] == {
        "request_id": "r", "engine": "engine/x", "degraded": "load", "queue_ms": 0.5, "compute_ms": 1, "total_ms": 2
    }  # fmt: skip
    assert "id" not in json.loads(encode_reply(answer(), usual_outputs(), None, timing)[0])


def test_what_goes_out_in_binary() -> None:
    """Little-endian and in the order of the outputs, among which others are in JSON."""
    wanted = {"seed": True, "q": False, "action": True}
    body, length = encode_reply(answer(), wanted, None, timing)
    assert length is not None
    outputs = json.loads(body[:length])["outputs"]
    assert [output["name"] for output in outputs] == ["seed", "q", "action"]
    assert [output.get("parameters") for output in outputs] == [
        {"binary_data_size": 16},
        None,
        {"binary_data_size": 24},
    ]
    assert ["data" in output for output in outputs] == [False, True, False]
    assert body[length:] == struct.pack("<2Q6f", 2**64 - 1, 0, 0, 1, 2, 3, 4, 5)


def test_an_observation_without_rows_has_an_action_without_rows() -> None:
    wanted = dict.fromkeys(("action", "candidates", "candidate_q", "q"), False)
    body, _ = encode_reply(answer(single=True, candidates=True), wanted, None, timing)
    assert [output["shape"] for output in json.loads(body)["outputs"]] == [[3], [2, 3], [2], [1]]


@pytest.mark.parametrize(
    ("datatype", "code"), [("FP64", "d"), ("FP16", "e"), ("INT64", "q"), ("UINT8", "B"), ("INT32", "i")]
)
def test_other_datatypes(datatype: str, code: str) -> None:
    data = struct.pack(f"<2{code}", 7, 2)
    tensor = {**TENSOR, "datatype": datatype, "parameters": {"binary_data_size": len(data)}}
    del tensor["data"]
    head = json.dumps({"inputs": [tensor]}).encode()
    assert read(head + data, len(head))[1].observation.tolist() == [7, 2]


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]]])
def test_data_is_flat_or_nested(data: list[Any]) -> None:
    act = asked(inputs=[{**TENSOR, "shape": [2, 2], "data": data}])
    assert act.observation.tolist() == [[1, 2], [3, 4]]


def test_parameters_are_fields_of_act() -> None:
    fields = {
        "num_candidates": 5, "num_steps": 2, "deadline_ms": 20.5, "on_late": "reject", "temperature": 0.5, "seed": "7",
        "min_quality": 0.25,
    }  # fmt: skip
    act = asked(parameters={**fields, "model_version": "abc", "priority": None})
    assert {name: getattr(act, name) for name in fields} == {**fields, "seed": 7}
    assert (act.model_version, act.priority) == ("abc", 5)


@pytest.mark.parametrize(("given", "priority"), [(0, 5), (1, 0), (6, 5), (10, 9)])
def test_tritons_priority_begins_with_1(given: int, priority: int) -> None:
    assert asked(parameters={"priority": given}).priority == priority


def test_tritons_timeout_is_in_microseconds() -> None:
    assert asked(parameters={"timeout": 20_500}).deadline_ms == 20.5
    assert asked(parameters={"timeout": 0}).deadline_ms is None


def test_whole_floats_are_whole_numbers() -> None:
    act = asked(parameters={"priority": 1.0, "timeout": 20_000.0, "num_candidates": 8.0})
    assert (act.priority, act.deadline_ms, act.num_candidates) == (0, 20, 8)


@pytest.mark.parametrize("timeout", [1_234_567, 5_000, 20_000.0])
def test_an_error_about_a_timeout_says_what_was_sent(timeout: float) -> None:
    error = DeadlineExceeded("too late")
    error.name_deadline("deadline_ms", timeout / 1000, "milliseconds")
    name_timeout(error, {"timeout": timeout})
    assert error.detail == f"too late (timeout was {timeout:.0f}, in microseconds)"


@pytest.mark.parametrize("parameters", [{"deadline_ms": 5}, {"deadline_ms": 5, "timeout": 0}, {"timeout": None}])
def test_an_error_about_a_deadline_does_so_too(parameters: dict[str, Any]) -> None:
    error = DeadlineExceeded("too late")
    error.name_deadline("deadline_ms", 5, "milliseconds")
    name_timeout(error, parameters)
    assert error.detail == "too late (deadline_ms was 5, in milliseconds)"


def test_candidates_are_returned_to_those_who_name_them() -> None:
    assert asked(outputs=[{"name": "candidates"}]).return_candidates
    assert asked(outputs=[{"name": "candidate_q"}, {"name": "q"}]).return_candidates


def test_the_address_pins_a_version() -> None:
    body = json.dumps({"inputs": [TENSOR], "parameters": {"model_version": "abc"}}).encode()
    assert read(body, version="abc")[1].model_version == "abc"
    with pytest.raises(InvalidRequest, match="model_version: expected 'xyz', as in the address; found 'abc'"):
        read(body, version="xyz")


@pytest.mark.parametrize(
    ("members", "field", "words"),
    [
        ({"inputs": []}, "inputs", "at least one tensor; found []"),
        ({"inputs": {}}, "inputs", "at least one tensor"),
        ({"inputs": [5]}, "inputs", "objects with a name; found 5"),
        ({"inputs": [{**TENSOR, "name": None}]}, "inputs", "objects with a name"),
        ({"inputs": [TENSOR, TENSOR]}, "observation", "'observation' is there twice"),
        ({"inputs": [{**TENSOR, "datatype": "BYTES"}]}, "observation", "FP32, FP64"),
        ({"inputs": [{**TENSOR, "datatype": ["FP32"]}]}, "observation", "FP32, FP64"),
        ({"inputs": [{**TENSOR, "shape": [3]}]}, "observation", "3 numbers for shape [3]; found 2 numbers"),
        ({"inputs": [{**TENSOR, "shape": [2, -1]}]}, "observation", "sizes above 0"),
        ({"inputs": [{**TENSOR, "shape": [1, 1, 1, 2]}]}, "observation", "1 to 3 sizes"),
        ({"inputs": [{**TENSOR, "shape": []}]}, "observation", "1 to 3 sizes"),
        ({"inputs": [{**TENSOR, "shape": 2}]}, "observation", "1 to 3 sizes"),
        ({"inputs": [{**TENSOR, "shape": [True, 2]}]}, "observation", "1 to 3 sizes"),
        ({"inputs": [{**TENSOR, "data": "AAAA"}]}, "observation", "data as a list"),
        ({"inputs": [{**TENSOR, "data": [1, "2"]}]}, "observation", "expected numbers"),
        ({"inputs": [{**TENSOR, "data": [[1, 2]]}]}, "observation", "lists of shape [2]; found lists of shape [1, 2]"),
        ({"inputs": [{**TENSOR, "shape": [2, 2], "data": [[1, 2], [3]]}]}, "observation", "row 1"),
        ({"inputs": [{**TENSOR, "data": [1, float("nan")]}]}, "observation", "finite"),
        ({"inputs": [{**TENSOR, "parameters": {"binary_data_size": 8}}]}, "observation", "found both"),
        ({"inputs": [{**TENSOR, "parameters": {"shared_memory_region": "r"}}]}, "observation", "'shared_memory_region"),
        ({"inputs": [{**TENSOR, "parameters": 5}]}, "observation", "parameters as an object"),
        ({"inputs": [{name: TENSOR[name] for name in ("name", "shape", "datatype")}]}, "observation", "found neither"),
        ({"outputs": 5}, "outputs", "a list"),
        ({"outputs": [{}]}, "outputs", "objects with a name"),
        ({"outputs": [{"name": "torque"}]}, "torque", "'torque' is not an output; there are action, q"),
        ({"outputs": [{"name": "q", "parameters": {"classification": 3}}]}, "q", "'classification'"),
        ({"outputs": [{"name": "q", "parameters": {"binary_data": 1}}]}, "q", "true or false; found 1"),
        ({"parameters": []}, "parameters", "an object; found []"),
        ({"parameters": {"binary_data_output": "yes"}}, "binary_data_output", "true or false"),
        ({"parameters": {"sequence_id": 1}}, "sequence_id", "'sequence_id' is not a parameter; there are num_cand"),
        ({"parameters": {"observation": [1, 2]}}, "observation", "is not a parameter"),
        ({"parameters": {"num_candidates": 0}}, "num_candidates", "greater than or equal to 1"),
        ({"parameters": {"seed": 2**60}}, "seed", "decimal strings"),
        ({"parameters": {"priority": 11}}, "priority", "1 (served first) to 10, or 0 for the default; found 11"),
        ({"parameters": {"priority": -1}}, "priority", "1 (served first) to 10"),
        ({"parameters": {"priority": 1.5}}, "priority", "1 (served first) to 10"),
        ({"parameters": {"timeout": 3.7e9}}, "timeout", "microseconds, at most 3600000000 (an hour); found 3700000000"),
        ({"parameters": {"priority": True}}, "priority", "1 (served first) to 10"),
        ({"parameters": {"timeout": 1.5}}, "timeout", "whole number of microseconds, at most 3600000000"),
        ({"parameters": {"timeout": -5}}, "timeout", "whole number of microseconds"),
        ({"parameters": {"timeout": 5, "deadline_ms": 5}}, "timeout", "either it or deadline_ms; found both"),
        ({"instances": [[1, 2]]}, "instances", "'instances' is not a member of an inference request"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_faults_are_named(members: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked(**members)
    assert caught.value.field == field
    assert words in caught.value.detail


@pytest.mark.parametrize(
    ("body", "length", "field", "words"),
    [
        (b"", None, None, "the body is empty: expected an object with at least 'inputs'"),
        (b"[]", None, None, "an object with at least 'inputs'"),
        (b"{}", None, "inputs", "at least one tensor; found null"),
        (BINARY, None, None, "not UTF-8"),
        (BINARY, len(BINARY), None, "not UTF-8"),
        (BINARY, len(BINARY) + 1, open_inference.HEADER_LENGTH, f"1 to {len(BINARY)} bytes"),
        (BINARY, 0, open_inference.HEADER_LENGTH, "the length of the JSON"),
        (BINARY, -1, open_inference.HEADER_LENGTH, "found -1"),
        (BINARY, "9" * 5000, open_inference.HEADER_LENGTH, "found 999"),
        (BINARY, len(BINARY) - 9, None, "not JSON"),
        (BINARY[:-1], len(BINARY) - 8, "observation", "found 8; 7 bytes are left behind the JSON"),
        (BINARY + b"\0", len(BINARY) - 8, "inputs", "8 bytes behind the JSON, by their binary_data_size; found 9"),
        (BINARY.replace(b"[1,2]", b"[1,3]"), len(BINARY) - 8, "observation", "12 bytes for <f4 [1, 3]; found 8"),
        (BINARY.replace(b'e":8', b'e":-8'), len(BINARY) - 7, "observation", "binary_data_size as a number of bytes"),
        (BINARY.replace(b'e":8', b'e":8.0'), len(BINARY) - 6, "observation", "binary_data_size as a number of bytes"),
        (BINARY.replace(b"\x80?", b"\xc0\x7f"), len(BINARY) - 8, "observation", "found nan at [0, 0]"),
        (JSON + b"\0", len(JSON), "inputs", "0 bytes behind the JSON"),
    ],
)  # fmt: skip
def test_damaged_bodies_are_refused(body: bytes, length: int | str | None, field: str | None, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(body, length)
    assert caught.value.field == field
    assert words in caught.value.detail


def test_errors_are_ascii() -> None:
    error = DeadlineExceeded("it passed \ud800", reason="too_short")
    assert encode_error(error) == b'{"error": "deadline_exceeded: it passed \\ud800"}'


some = st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats() | st.text(max_size=3)
names = st.sampled_from(["name", "shape", "datatype", "data", "parameters", "binary_data_size", "FP32", "observation"])
values = st.recursive(
    some | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.text(max_size=3), inner, max_size=5),
    max_leaves=12,
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["id", "inputs", "outputs", "parameters"]), values, st.binary(max_size=9), st.integers(-9, 9))
def test_nothing_that_comes_is_a_fault_of_the_server(member: str, value: Any, tail: bytes, more: int) -> None:
    head = json.dumps({"inputs": [TENSOR], member: value}).encode()
    with contextlib.suppress(InvalidRequest):
        read(head + tail, len(head) + more)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["name", "shape", "datatype", "data", "parameters"]), values, st.binary(max_size=9))
def test_no_tensor_that_comes_is_a_fault_of_the_server(member: str, value: Any, tail: bytes) -> None:
    head = json.dumps({"inputs": [{**TENSOR, member: value}]}).encode()
    with contextlib.suppress(InvalidRequest):
        read(head + tail, len(head))
