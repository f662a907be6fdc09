"""OpenVLA's form of POST /act: what counts as it, its text in a text, and its replies."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from service.errors import InvalidRequest
from service.protocol import codec, openvla

ARRAY = {"__numpy__": "AACAPwAAAEA=", "dtype": "<f4", "shape": [2]}  # what json-numpy 2.1.1 makes of float32 [1, 2]
SCALAR = {"__numpy__": "AACAPw==", "dtype": "<f4", "shape": []}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"observation": ARRAY}, True),
        ({"state": ARRAY}, True),
        ({"observation": {"arm": ARRAY}}, True),
        ({"observation/arm": ARRAY, "seed": 1}, True),
        ({"observation": [SCALAR, 1.0]}, True),
        ({"observation": {"arm": [[[SCALAR]]]}}, True),
        ({"observation": [1.0, 2.0]}, False),
        ({"observation": {"arm": [1.0], "tool": [2.0]}, "model": "__numpy__"}, False),
        ({"observation": []}, False),
        ({}, False),
    ],
)
def test_arrays_are_seen_wherever_an_observation_has_them(fields: dict[str, Any], expected: bool) -> None:
    assert openvla.has_arrays(fields) is expected


def test_a_deep_body_is_not_searched_to_its_end() -> None:
    value: Any = ARRAY
    for _ in range(100_000):
        value = [value]
    assert openvla.has_arrays({"observation": value}) is False


def test_arrays_of_a_reply_are_json_numpys() -> None:
    encoded = openvla.encode({"action": np.array([1, 2], np.float32), "q": 0.5})
    assert json.loads(encoded) == {"action": ARRAY, "q": 0.5}


def test_a_request_in_a_text_is_read_and_its_reply_is_a_text() -> None:
    fields = codec.decode(json.dumps({"encoded": json.dumps({"state": ARRAY, "seed": 3})}).encode(), codec.JSON)
    assert openvla.is_text(fields)
    assert openvla.from_text(fields) == {"state": ARRAY, "seed": 3}
    assert json.loads(json.loads(openvla.as_text(openvla.encode({"action": np.array([1, 2], np.float32)})))) == {
        "action": ARRAY
    }


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"encoded": {"state": ARRAY}}, "encoded"),
        ({"encoded": None}, "encoded"),
        ({"encoded": ""}, "encoded"),
        ({"encoded": "[1]"}, "encoded"),
        ({"encoded": "{"}, "encoded"),
        ({"encoded": "\ud800"}, "encoded"),
        ({"encoded": "[" * 100_000}, "encoded"),
        ({"encoded": '{"seed": 1, "seed": 2}'}, "seed"),
        ({"encoded": "{}", "seed": 1}, "seed"),
    ],
)
def test_what_is_wrong_with_a_text_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest, match="encoded") as caught:
        openvla.from_text(fields)
    assert caught.value.field == field
