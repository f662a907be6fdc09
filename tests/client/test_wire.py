import contextlib
import json

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sorl_client import wire

# np.array([1, 2], float32) as openpi-client 0.1.2 packs it.
GOLDEN = bytes.fromhex(
    "84c40b5f5f6e6461727261795f5fc3c40464617461c4080000803f00000040c4056474797065a33c6634c40573686170659102"
)


def test_arrays_are_packed_as_openpi_packs_them():
    assert wire.encode(np.array([1, 2], np.float32)) == GOLDEN


def test_the_golden_vector_is_read_back():
    array = wire.decode(GOLDEN, "application/msgpack")
    assert array.dtype == np.float32
    assert array.tolist() == [1.0, 2.0]


@given(
    hnp.arrays(
        st.sampled_from(["<f4", "<f8", ">f4", "<f2", "|u1", "<i8", "|b1"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    )
)
def test_arrays_survive_the_round_trip_bit_for_bit_and_are_writable(array):
    decoded = wire.decode(wire.encode({"x": [array]}), wire.MSGPACK)["x"][0]
    assert decoded.dtype == array.dtype
    assert decoded.shape == array.shape
    assert decoded.tobytes() == array.tobytes()
    assert decoded.flags.writeable
    assert decoded.flags.owndata or decoded.base is None


def test_strided_arrays_are_sent_in_c_order():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)[::-1, ::2].T
    np.testing.assert_array_equal(wire.decode(wire.encode(array), wire.MSGPACK), array)


def test_arrays_with_text_keys_and_numpy_scalars_are_read():
    body = msgpack.packb(
        {
            "a": {"__ndarray__": True, "data": b"\x01\x02", "dtype": "|u1", "shape": [2]},
            "s": {b"__npgeneric__": True, b"data": 1.5, b"dtype": "<f4"},
        }
    )
    decoded = wire.decode(body, wire.MSGPACK)
    assert decoded["a"].tolist() == [1, 2]
    assert decoded["s"] == np.float32(1.5)
    assert decoded["s"].dtype == np.float32


@pytest.mark.parametrize(
    "changes",
    [
        {b"dtype": "|O"},
        {b"dtype": "<c8"},
        {b"dtype": "<M8[s]"},
        {b"dtype": "no such"},
        {b"dtype": "(2,)<f4"},
        {b"dtype": None},
        {b"shape": [3]},
        {b"shape": [-1]},
        {b"shape": [True, 2]},
        {b"shape": 2},
        {b"data": "text"},
        {b"data": b"1234567"},
    ],
    ids=str,
)
def test_malformed_arrays_are_refused(changes):
    entry = {b"__ndarray__": True, b"data": b"12345678", b"dtype": "<f4", b"shape": [2]}
    with pytest.raises(ValueError):  # noqa: PT011, the words differ
        wire.decode(msgpack.packb(entry | changes), wire.MSGPACK)


@given(st.binary(max_size=64), st.sampled_from(["application/msgpack", "application/json", "text/html", ""]))
def test_any_bytes_decode_or_raise_value_error(body, media_type):
    with contextlib.suppress(ValueError):
        wire.decode(body, media_type)


def test_json_has_arrays_as_lists_and_large_integers_as_text():
    body = wire.encode({"o": np.array([1, 2.5], np.float32), "s": [2**53, 2**53 + 1], "b": True, "n": None}, wire.JSON)
    assert json.loads(body) == {"o": [1.0, 2.5], "s": [2**53, "9007199254740993"], "b": True, "n": None}


def test_msgpack_round_trips_any_uint64():
    assert wire.decode(wire.encode([2**64 - 1, np.uint64(2**64 - 1)]), wire.MSGPACK) == [2**64 - 1] * 2


def test_json_has_no_nan():
    with pytest.raises(ValueError, match="not JSON compliant"):
        wire.encode({"o": np.array([np.nan])}, wire.JSON)


@pytest.mark.parametrize("media_type", [wire.MSGPACK, wire.JSON])
@pytest.mark.parametrize("value", [np.array([object()]), np.array(["text"]), object()], ids=["object", "text", "other"])
def test_values_that_are_not_numbers_are_refused(value, media_type):
    with pytest.raises(TypeError):
        wire.encode({"x": value}, media_type)


def test_problem_documents_and_parameters_of_media_types_are_understood():
    assert wire.decode(b'{"code": "x"}', "application/problem+json; charset=utf-8") == {"code": "x"}
