"""The encoding of arrays is seen in a request, and its reply's are encoded so too."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import numpy as np
import pytest

from service.protocol import codec

TWO = np.array([1, 2], np.float32)
# What json-numpy 2.1.1, openpi-client 0.1.2 and msgpack-numpy 0.4.8 make of it.
JSON_NUMPY = {"__numpy__": "AACAPwAAAEA=", "dtype": "<f4", "shape": [2]}
OPENPI = "84c40b5f5f6e6461727261795f5fc3c40464617461c4080000803f00000040c4056474797065a33c6634c40573686170659102"
MSGPACK_NUMPY = "85c4026e64c3c40474797065a33c6634c4046b696e64c400c40573686170659102c40464617461c4080000803f00000040"
SCALAR = {"__numpy__": "AACAPw==", "dtype": "<f4", "shape": []}


@pytest.mark.parametrize(
    ("fields", "marker"),
    [
        ({"observation": JSON_NUMPY}, "__numpy__"),
        ({"state": JSON_NUMPY}, "__numpy__"),
        ({"observation": {"arm": JSON_NUMPY}}, "__numpy__"),
        ({"observation/arm": JSON_NUMPY, "seed": 1}, "__numpy__"),
        ({"observation": [SCALAR, 1.0]}, "__numpy__"),
        ({"observation": {"arm": [[[SCALAR]]]}}, "__numpy__"),
        ({"seed": 1, "observation": {b"nd": True}}, "nd"),
        ({"observation": [[{"nd": False}]]}, "nd"),
        ({"observation": [1.0, 2.0], "num_candidates": {b"nd": False}}, "nd"),
        ({"observation": [[1.0, {b"nd": False}], [2.0, 3.0]]}, "nd"),
        ({"observation": {b"__ndarray__": True}}, "__ndarray__"),
        ({"observation": [1.0, 2.0]}, None),
        ({"observation": {"arm": [1.0], "tool": [2.0], "nd": 1.0}, "model": "__numpy__"}, None),
        ({"observation": []}, None),
        ({}, None),
    ],
)
def test_the_encoding_of_arrays_is_seen_wherever_an_observation_has_them(
    fields: dict[str, Any], marker: str | None
) -> None:
    assert codec.spoken(fields) == marker


@pytest.mark.parametrize("name", ["seed", "observation/gripper"])
def test_a_scalar_beside_plain_lists_is_seen_once_the_body_is_decoded(name: str) -> None:
    scalar = {b"nd": False, b"type": "<u8", b"data": bytes(8)}
    body = msgpack.packb({"observation/arm": [1.0, 2.0], name: scalar})
    assert codec.spoken(codec.decode(body, codec.MSGPACK)) == "nd"


def test_a_deep_body_is_not_searched_to_its_end() -> None:
    value: Any = JSON_NUMPY
    for _ in range(100_000):
        value = [value]
    assert codec.spoken({"observation": value}) is None


@pytest.mark.parametrize("marker", [None, "__ndarray__", "nd"])
def test_arrays_in_json_are_lists_or_json_numpys(marker: str | None) -> None:
    value = {"action": TWO, "q": 0.5}
    assert json.loads(codec.encode(value, codec.JSON, "__numpy__")) == {"action": JSON_NUMPY, "q": 0.5}
    assert json.loads(codec.encode(value, codec.JSON, marker)) == {"action": [1, 2], "q": 0.5}


@pytest.mark.parametrize("marker", [None, "__ndarray__", "__numpy__"])
def test_arrays_in_msgpack_are_openpis_or_msgpack_numpys(marker: str | None) -> None:
    head = bytes.fromhex("81a161")  # a map of one member, "a"
    assert codec.encode({"a": TWO}, codec.MSGPACK, marker) == head + bytes.fromhex(OPENPI)
    assert codec.encode({"a": TWO}, codec.MSGPACK, "nd") == head + bytes.fromhex(MSGPACK_NUMPY)


@pytest.mark.parametrize("encoded", [OPENPI, MSGPACK_NUMPY])
def test_arrays_of_real_clients_are_read(encoded: str) -> None:
    value = msgpack.unpackb(bytes.fromhex(encoded))
    array = codec.decode_array(value, "observation")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, TWO)
