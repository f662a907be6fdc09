from __future__ import annotations

import base64
import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.protocol import codec
from service.protocol.schemas import ActRequest, parse_act, row_seeds

ONE = [0.5, -1, 2]

# Neither a busy machine nor Hypothesis' own start-up is a fault of the code.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def parse(fields: dict[str, Any], media_type: str = codec.JSON) -> ActRequest:
    """Through the bytes, as a client sends them."""
    return parse_act(codec.decode(codec.encode(fields, media_type), media_type), media_type)


def json_array(array: np.ndarray, **changes: Any) -> dict[str, Any]:
    return {**codec.encode_array(array), **changes}


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (ONE, (3,)),
        ([ONE, ONE], (2, 3)),
        (json_array(np.array(ONE, "<f4")), (3,)),
        (json_array(np.array([ONE], ">f8")), (1, 3)),
        (json_array(np.array(ONE, "<f4"), dtype="float32"), (3,)),
        (json_array(np.array([1, 2], "<i8")), (2,)),
        ([[ONE]], (1, 3)),
        ([[ONE], [ONE]], (2, 3)),
        (json_array(np.array([[ONE], [ONE]], "<f4")), (2, 3)),
        ({"state": ONE}, (3,)),
        ({"state": 0.5}, (1,)),
    ],
)
def test_observation_forms(value: Any, shape: tuple[int, ...]) -> None:
    request = parse({"observation": value})
    assert isinstance(request.observation, np.ndarray)
    assert request.observation.dtype == np.float32
    assert request.observation.shape == shape
    assert request.observation.flags.c_contiguous
    assert request.single == (len(shape) == 1)


@pytest.mark.parametrize("text_keys", [False, True])
def test_msgpack_array_with_bin_or_str_keys(text_keys: bool) -> None:
    import msgpack

    array = np.array([[1, 2, 3]], "<f4")
    packed = {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": "<f4", b"shape": [1, 3]}
    value = {key.decode(): item for key, item in packed.items()} if text_keys else packed
    body = msgpack.packb({"observation": value})
    fields = codec.decode(body, codec.MSGPACK)
    np.testing.assert_array_equal(parse_act(fields, codec.MSGPACK).observation, array)


def test_msgpack_array_is_openpis_golden_vector() -> None:
    golden = "84c40b5f5f6e6461727261795f5fc3c40464617461c4080000803f00000040c4056474797065a33c6634c40573686170659102"
    packed = codec.encode({"a": np.array([1, 2], np.float32)}, codec.MSGPACK)
    assert packed == bytes.fromhex("81a161" + golden)


@patient
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_float32_survives_both_formats_exactly(numbers: list[float]) -> None:
    exact = np.array(numbers, np.float32)
    for media_type in (codec.JSON, codec.MSGPACK):
        for value in (numbers, exact):
            observation = parse({"observation": value}, media_type).observation
            assert observation.tobytes() == exact.tobytes()
    assert parse({"observation": json_array(exact)}).observation.tobytes() == exact.tobytes()


@pytest.mark.parametrize(
    "value",
    [
        None, 1, "1,2", [], [[]], [[], []], [[1], [1, 2]], [1, [2]], [[1], 2], [True], ["1"], [None], [1, {}],
        [[[[1]]]], [[[1], [1]]], [[[]]], [[[1]], [1]], [1e39], [-1e39], [10**400], {}, {"__numpy__": "AAAA"},
        json_array(np.array(ONE, "<f4"), dtype="<f8"),
        json_array(np.array(ONE, "<f4"), dtype="O"),
        json_array(np.array(ONE, "<f4"), dtype="<c8"),
        json_array(np.array(ONE, "<f4"), dtype="f4,f4"),
        json_array(np.array(ONE, "<f4"), dtype=4),
        json_array(np.array(ONE, "<f4"), shape=[4]),
        json_array(np.array(ONE, "<f4"), shape=[-3]),
        json_array(np.array(ONE, "<f4"), shape=[10**30, 0]),
        json_array(np.array(ONE, "<f4"), shape=[1, 3, 1]),
        json_array(np.array(ONE, "<f4"), shape=[1, 1, 1, 3]),
        json_array(np.array(ONE, "<f4"), shape=3),
        json_array(np.array(ONE, "<f4"), shape=[True, 3]),
        json_array(np.array(ONE, "<f4"), __numpy__="not base64!"),
        json_array(np.array(ONE, "<f4"), __numpy__="AAA"),
        json_array(np.array(ONE, "<f4"), __numpy__=7),
        json_array(np.array(ONE, "<f4"), extra=1),
        json_array(np.array(5.0, "<f4")),
        json_array(np.array([1.0, np.nan], "<f4")),
        json_array(np.array([1e300], "<f8")),
        json_array(np.zeros((0, 3), "<f4")),
    ],
)  # fmt: skip
def test_bad_observation_is_named(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^observation: expected ") as caught:
        parse({"observation": value})
    assert caught.value.field == "observation"
    assert len(caught.value.detail) < 400


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["observation", "temperature", "deadline_ms", "seed", "num_candidates"])
def test_numbers_that_are_not_finite_are_named(token: str, field: str) -> None:
    values = {"observation": "[1, 2]", field: f"[{token}]" if field == "observation" else token}
    body = "{" + ", ".join(f'"{name}": {value}' for name, value in values.items()) + "}"
    with pytest.raises(InvalidRequest) as caught:
        parse_act(codec.decode(body.encode(), codec.JSON), codec.JSON)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_candidates", 0), ("num_candidates", -3), ("num_candidates", 8.5), ("num_candidates", "4"),
        ("num_candidates", True), ("num_candidates", [4]), ("num_steps", 0), ("num_steps", False), ("num_steps", 2.5),
        ("deadline_ms", 0), ("deadline_ms", -1), ("deadline_ms", "20"), ("deadline_ms", True), ("deadline_ms", 1e12),
        ("deadline_ms", 10**400), ("on_late", "give up"), ("on_late", 1), ("temperature", -0.1), ("temperature", 2.1),
        ("temperature", "1"), ("temperature", True), ("priority", -1), ("priority", 10), ("min_quality", -0.1),
        ("min_quality", 1.1), ("min_quality", "0.9"), ("min_quality", True),
        ("priority", 1.5), ("return_candidates", 1), ("return_candidates", "true"), ("model", 3),
        ("model", "\ud800"), ("model_version", []), ("request_id", ""), ("request_id", "a b"), ("request_id", "ü"),
        ("request_id", "x" * 129), ("request_id", "a\r\nSet-Cookie: b"), ("request_id", 5),
        ("seed", -1), ("seed", 1.5), ("seed", True), ("seed", "-1"), ("seed", "1e3"), ("seed", "0x10"), ("seed", ""),
        ("seed", "18446744073709551616"), ("seed", "9" * 21), ("seed", "١"), ("seed", []), ("seed", [1, -1]),
        ("seed", [[1]]), ("seed", {}), ("seed", 2**53 + 1), ("seed", [2**53 + 1]), ("seed", [1, None]),
        ("seed", 2.0**53 + 2), ("seed", 1e300), ("num_candidate", 4), ("observations", [1.0]), ("", 1),
    ],
)  # fmt: skip
def test_bad_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse({"observation": ONE, field: value})
    assert caught.value.field == field


def test_missing_observation_is_named() -> None:
    with pytest.raises(InvalidRequest, match="observation: it is missing"):
        parse({"num_steps": 1})


def test_left_out_and_null_are_the_same() -> None:
    names = set(ActRequest.model_fields) - {"observation"}
    with_null = parse({"observation": ONE, **dict.fromkeys(names)})
    assert with_null.model_dump(exclude={"observation"}) == parse({"observation": ONE}).model_dump(
        exclude={"observation"}
    )


@pytest.mark.parametrize("value", [0, 2**53, "0", str(2**64 - 1), ["7", 8, str(2**63)]])
def test_seed_forms(value: Any) -> None:
    seed = parse({"observation": ONE, "seed": value}).seed
    assert seed == ([int(item) for item in value] if isinstance(value, list) else int(value))


def test_large_seed_is_a_plain_integer_in_msgpack() -> None:
    assert parse({"observation": ONE, "seed": 2**64 - 1}, codec.MSGPACK).seed == 2**64 - 1
    seeds = np.array([2**64 - 1, 3], np.uint64)
    assert parse({"observation": ONE, "seed": seeds}, codec.MSGPACK).seed == [2**64 - 1, 3]


def test_refused_json_integer_explains_itself() -> None:
    with pytest.raises(InvalidRequest, match="decimal strings, since JSON numbers lose digits"):
        parse({"observation": ONE, "seed": 2**53 + 1})


def test_scalar_seed_counts_up_by_row_and_wraps() -> None:
    assert row_seeds(2**64 - 1, 3).tolist() == [2**64 - 1, 0, 1]
    assert row_seeds([9, 9], 2).tolist() == [9, 9]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[1]", b'"x"', b"null", b"{}x", b"\xff{}", b'{"a": 1, "a": 2}', b"{'a': 1}",
        '{"a": 1}'.encode("utf-16"), b"[" * 100_000, b'{"observation": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"observation": [' + b"1" * 5000 + b"]}",
    ],
)  # fmt: skip
def test_body_that_is_not_a_json_object(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        codec.decode(body, codec.JSON)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\xc1", b"\x90", b"\x81\xa1a", b"\x80\x80", b"\x81\x01\x02", b"\x81\xa1a\xa1\xff", b"\x91" * 5000,
        b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x82\xa1a\x01\xa1a\x02", b"\x82\xa1a\x01\xc4\x01a\x02",
    ],
)  # fmt: skip
def test_body_that_is_not_a_msgpack_object(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        codec.decode(body, codec.MSGPACK)


@patient
@given(st.binary(max_size=200), st.sampled_from([codec.JSON, codec.MSGPACK]))
def test_any_bytes_are_a_request_or_a_typed_error(body: bytes, media_type: str) -> None:
    with contextlib.suppress(InvalidRequest):
        parse_act(codec.decode(body, media_type), media_type)


MEMBERS = ["__ndarray__", "__numpy__", "__npgeneric__", "nd", "type", "kind", "data", "dtype", "shape", "state", "arm"]
SPELLINGS = ["state", "observation.state", "observation/state", "observation/arm"]
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.sampled_from(["", "7", "small", "<f4", "degrade"])
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=4),
    max_leaves=6,
)


@patient
@given(st.dictionaries(st.sampled_from([*ActRequest.model_fields, *SPELLINGS, "other"]), values))
def test_any_values_are_a_request_or_a_typed_error(fields: dict[str, Any]) -> None:
    try:
        request = parse_act(codec.decode(codec.encode(fields, codec.MSGPACK), codec.MSGPACK), codec.MSGPACK)
    except InvalidRequest as error:
        assert error.detail  # noqa: PT017 -- either way is fine; this is what must hold if it is refused
    else:
        observation = request.observation
        parts = [observation] if isinstance(observation, np.ndarray) else observation.values()
        assert all(np.isfinite(part).all() for part in parts)


def test_base64_of_the_documentation_is_what_numpy_has() -> None:
    assert codec.encode_array(np.array([1, 2], "<f4")) == {
        "__numpy__": base64.b64encode(b"\x00\x00\x80\x3f\x00\x00\x00\x40").decode(),
        "dtype": "<f4",
        "shape": [2],
    }
