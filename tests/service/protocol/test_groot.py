"""GR00T's bytes: golden frames, and .npy files of every kind, well made or not."""

from __future__ import annotations

import contextlib
import io
import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib import format as npy

from service.errors import InvalidRequest, Overloaded, ServiceError
from service.protocol import Answer, groot
from service.sample import SampleReply, SampleRequest

# {"endpoint": "get_action", "data": {"observation": {"state": {"arm": float32 [[[1, 2]]]}}, "options": None},
#  "api_token": "k"}: msgpack by its specification, and the .npy file as NumPy's format page lays it out.
HEADER = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }"
STATE = (HEADER % b"1, 1, 2").ljust(127) + b"\n" + bytes.fromhex("0000803f00000040")
ACTION = (HEADER % b"1, 1, 3").ljust(127) + b"\n" + bytes.fromhex("0000003f000080bf00000000")
REQUEST = (
    b"\x83\xa8endpoint\xaaget_action\xa4data\x82\xabobservation\x81\xa5state\x81\xa3arm"
    b"\x82\xb1__ndarray_class__\xc3\xa6as_npy\xc4\x88" + STATE + b"\xa7options\xc0\xa9api_token\xa1k"
)
REPLY_HEAD = b"\x92\x81\xa6action\x82\xb1__ndarray_class__\xc3\xa6as_npy\xc4\x8c" + ACTION


def answer() -> Answer:
    """Of one observation in a batch."""
    one = np.ones(1, np.float32)
    return Answer(
        reply=SampleReply(np.array([[0.5, -1, 0]], np.float32), one, one, one, one, "engine"),
        request=SampleRequest(np.zeros((1, 2), np.float32), 1, 2, np.zeros(1, np.uint64), 1.0, False, False),
        single=False,
        seed=2**60,
        model="m",
        model_version="v",
        request_id="r",
    )


def test_a_golden_request() -> None:
    call = groot.parse_call([REQUEST], len(REQUEST))
    assert (call.endpoint, call.credential) == ("get_action", "Bearer k")
    request = groot.parse_get_action(groot.act_fields(call.data))
    assert {name: part.tolist() for name, part in request.observation.items()} == {"arm": [[1.0, 2.0]]}
    with pytest.raises(ServiceError, match=rf"the message has {len(REQUEST)} bytes, above {len(REQUEST) - 1}"):
        groot.parse_call([REQUEST], len(REQUEST) - 1)


def test_a_golden_reply() -> None:
    frame = groot.action_reply(answer(), lambda: {"total": 1.5})
    assert frame.startswith(REPLY_HEAD)
    _, info = msgpack.unpackb(frame)
    assert np.load(io.BytesIO(info["q"]["as_npy"]), allow_pickle=False).tolist() == [1.0]
    assert (info["num_candidates"], info["num_steps"], info["seed"]) == (1, 2, str(2**60))
    assert info["timing_ms"] == {"total": 1.5}


def test_an_error_has_its_code_and_when_to_come_back() -> None:
    error = msgpack.unpackb(groot.error_reply(Overloaded("too much", retry_after_ms=7), "r"))
    assert error["error"] == "overloaded: too much"
    assert (error["retry_after_ms"], error["request_id"]) == (7, "r")


def file_of(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    file = io.BytesIO()
    npy.write_array(file, array, version=version, allow_pickle=False)
    return file.getvalue()


def parsed(as_npy: bytes) -> list[Any]:
    fields = groot.act_fields({"observation": {"__ndarray_class__": True, "as_npy": as_npy}})
    rows: list[Any] = groot.parse_get_action(fields).observation.tolist()  # type: ignore[union-attr]
    return rows


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "|u1", ">i8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_npy_file_of_numbers_is_read(version: tuple[int, int], dtype: str, order: Any) -> None:
    array = np.arange(6).reshape(3, 2).astype(dtype, order=order)
    assert parsed(file_of(array, version)) == [[0, 1], [2, 3], [4, 5]]
    assert parsed(file_of(np.array(array[:, None], order=order), version)) == [[0, 1], [2, 3], [4, 5]]


def test_headers_of_other_writers_are_read() -> None:
    """NumPy's format page fixes neither the order of a header's keys nor its quotes nor its padding."""
    header = b'{"shape": (2,), "descr": "<f4", "fortran_order": False}\n'
    assert parsed(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 8) == [0.0, 0.0]


def test_a_file_of_python_2_is_read_without_a_line_in_the_log() -> None:
    """NumPy warns of it, which a server would print and these tests would raise."""
    as_npy = (HEADER % b"2L,").ljust(127) + b"\n" + bytes(8)
    assert parsed(as_npy) == [0.0, 0.0]


@pytest.mark.parametrize("shape", [b"1000000, 1000000", b"9" * 30 + b",", b"-1, 2", b"True, 2", b"2, 1.0", b"None"])
def test_a_shape_is_not_believed(shape: bytes) -> None:
    as_npy = (HEADER % shape).ljust(127) + b"\n" + bytes(8)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest, match="observation: "):
            parsed(as_npy)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=300), st.integers(0, 150), st.integers(0, 300))
def test_no_bytes_raise_anything_else(noise: bytes, start: int, length: int) -> None:
    """A good file with noise inside, as arrays of data, and noise as a message."""
    damaged = STATE[:start] + noise + STATE[start + length :]
    for attempt in (
        lambda: parsed(damaged),
        lambda: groot.parse_call([noise], 1000),
        lambda: groot.act_fields(groot.parse_call([REQUEST[:start] + noise + REQUEST[start + length :]], 1000).data),
    ):
        with contextlib.suppress(InvalidRequest):
            attempt()


text = st.text("{}()'\":,<>|=fiuOVb0123456789 \\nTrueFalsdcor_hp", max_size=120)


@given(text, text, text)
def test_no_header_raises_anything_else(descr: str, order: str, shape: str) -> None:
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}\n".encode()
    as_npy = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(8)
    with contextlib.suppress(InvalidRequest):
        parsed(as_npy)
