"""OpenVLA's form of POST /act: a request as text, and what is wrong with one. Its arrays: test_codec.py."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from service.errors import InvalidRequest
from service.protocol import codec, openvla

ARRAY = {"__numpy__": "AACAPwAAAEA=", "dtype": "<f4", "shape": [2]}  # what json-numpy 2.1.1 makes of float32 [1, 2]


def test_a_request_in_a_text_is_read_and_its_reply_is_a_text() -> None:
    fields = codec.decode(json.dumps({"encoded": json.dumps({"state": ARRAY, "seed": 3})}).encode(), codec.JSON)
    assert openvla.is_text(fields)
    reply = codec.encode({"action": np.array([1, 2], np.float32)}, codec.JSON, openvla.ARRAYS)
    assert openvla.from_text(fields) == {"state": ARRAY, "seed": 3}
    assert json.loads(json.loads(openvla.as_text(reply))) == {"action": ARRAY}


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
