"""Every spelling of an observation is the same observation, to the bit, and anything else is an InvalidRequest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from service.errors import InvalidRequest
from service.protocol import ActRequest, codec, parse_act

patient = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def parse(fields: dict[Any, Any], media_type: str) -> ActRequest:
    """Through bytes, as a client sends them. Fields are in their encoded form already."""
    body = json.dumps(fields).encode() if media_type == codec.JSON else msgpack.packb(fields)
    return parse_act(codec.decode(body, media_type), media_type)


def msgpack_numpy(array: np.ndarray | np.generic, key: Any = str.encode) -> dict[Any, Any]:
    """As msgpack-numpy 0.4.8 writes it; `key=str`: its keys as text."""
    if isinstance(array, np.generic):
        return {key("nd"): False, key("type"): array.dtype.str, key("data"): array.tobytes()}
    shape = list(array.shape)
    return {
        key("nd"): True,
        key("type"): array.dtype.str,
        key("kind"): b"",
        key("shape"): shape,
        key("data"): array.tobytes(),
    }


def openpi(array: np.ndarray | np.generic, key: Any = str.encode) -> dict[Any, Any]:
    if isinstance(array, np.generic):
        return {key("__npgeneric__"): True, key("data"): array.item(), key("dtype"): array.dtype.str}
    shape = list(array.shape)
    return {
        key("__ndarray__"): True,
        key("data"): array.tobytes(),
        key("dtype"): array.dtype.str,
        key("shape"): shape,
    }


def json_numpy(array: np.ndarray | np.generic) -> dict[str, Any]:
    return codec.encode_array(np.asarray(array))


ENCODINGS: dict[str, tuple[str, Any]] = {
    "lists in JSON": (codec.JSON, np.ndarray.tolist),
    "lists in msgpack": (codec.MSGPACK, np.ndarray.tolist),
    "json-numpy": (codec.JSON, json_numpy),
    "json-numpy, another byte order": (codec.JSON, lambda array: json_numpy(array.astype(">f8"))),
    "openpi": (codec.MSGPACK, openpi),
    "openpi, str keys": (codec.MSGPACK, lambda array: openpi(array, str)),
    "msgpack-numpy": (codec.MSGPACK, msgpack_numpy),
    "msgpack-numpy, str keys": (codec.MSGPACK, lambda array: msgpack_numpy(array, str)),
    "scalars of json-numpy": (codec.JSON, lambda array: scalars(array, json_numpy)),
    "scalars of openpi": (codec.MSGPACK, lambda array: scalars(array, openpi)),
    "scalars of msgpack-numpy": (codec.MSGPACK, lambda array: scalars(array, msgpack_numpy)),
}
WHOLE: tuple[Any, ...] = ("observation", "state", "observation/state", "observation.state")


def scalars(array: np.ndarray, encode: Any) -> Any:
    """Nested lists of NumPy scalars, as `list(array)` is."""
    return [encode(item) if isinstance(item, np.generic) else scalars(item, encode) for item in array]


@pytest.mark.parametrize("encoding", ENCODINGS)
@patient
@given(arrays(np.float32, array_shapes(min_dims=1, max_dims=2, max_side=4), elements=finite), st.sampled_from(WHOLE))
def test_every_spelling_of_a_vector_gives_the_same_bits(encoding: str, array: np.ndarray, name: str) -> None:
    media_type, encode = ENCODINGS[encoding]
    request = parse({name: encode(array)}, media_type)
    assert isinstance(request.observation, np.ndarray)
    assert request.observation.shape == array.shape
    assert request.observation.tobytes() == array.tobytes()
    assert request.single == (array.ndim == 1)
    nested = parse({"observation": {"state": encode(array)}}, media_type)
    assert isinstance(nested.observation, np.ndarray)
    assert nested.observation.tobytes() == array.tobytes()
    rows = array.reshape(-1, array.shape[-1])
    history = parse({name: encode(rows[:, None])}, media_type)
    assert isinstance(history.observation, np.ndarray)
    assert history.observation.shape == rows.shape
    assert history.observation.tobytes() == array.tobytes()
    assert not history.single


@pytest.mark.parametrize("encoding", ENCODINGS)
@patient
@given(st.data(), st.integers(0, 3), st.sampled_from("/."))
def test_every_spelling_of_parts_gives_the_same_bits(
    encoding: str, data: st.DataObject, rows: int, separator: str
) -> None:
    media_type, encode = ENCODINGS[encoding]
    names = ("joint_pos", "gripper", "arm/left", "state")
    shape = (rows,) if rows else ()
    parts = {
        name: data.draw(arrays(np.float32, (*shape, data.draw(st.integers(1, 3))), elements=finite)) for name in names
    }
    encoded = {name: encode(part) for name, part in parts.items()}
    flat = {f"observation{separator}{name}": part for name, part in encoded.items()}
    for fields in ({"observation": encoded}, flat):
        request = parse(fields, media_type)
        assert isinstance(request.observation, Mapping)
        assert request.single == (rows == 0)
        assert {name: (part.shape, part.tobytes()) for name, part in request.observation.items()} == {
            name: (part.shape, part.tobytes()) for name, part in parts.items()
        }
        with pytest.raises(TypeError):
            request.observation["joint_pos"] = parts["gripper"]  # type: ignore[index]


def test_a_part_may_be_one_number() -> None:
    for media_type, number in ((codec.JSON, json_numpy(np.float32(0.5))), (codec.MSGPACK, openpi(np.float32(0.5)))):
        request = parse({"observation/arm": [1, 2], "observation/gripper": number}, media_type)
        assert isinstance(request.observation, Mapping)
        assert request.observation["gripper"].tolist() == [0.5]
    request = parse({"observation": {"arm": [1, 2], "gripper": 0.5}}, codec.JSON)
    assert isinstance(request.observation, Mapping)
    assert request.observation["gripper"].tolist() == [0.5]


def test_arrays_that_an_adapter_has_decoded_are_taken_as_they_are() -> None:
    array = np.arange(6, dtype=np.float64).reshape(2, 1, 3)
    request = parse_act({"observation": array}, codec.MSGPACK)
    np.testing.assert_array_equal(request.observation, array[:, 0])


ONE = [0.5, -1.0]


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"observation": ONE, "state": ONE}, "state", "'observation' and 'state' both"),
        ({"observation": ONE, "observation/state": ONE}, "observation/state", "'observation' and 'observation/state'"),
        ({"observation": ONE, "observation.arm": ONE}, "observation.arm", "'observation' and 'observation.arm' both"),
        ({"state": ONE, "observation.state": ONE}, "observation.state", "'state' and 'observation.state' both"),
        ({"observation/arm": ONE, "state": ONE}, "observation/arm", "'state' and 'observation/arm' both"),
        ({"observation/arm": ONE, "observation.arm": ONE}, "observation.arm", "'observation/arm' and 'observation.arm"),
        ({"observation/": ONE}, "observation/", "is not a field of /act"),
        ({"observations/arm": ONE}, "observations/arm", "is not a field of /act"),
        ({"state": ONE, "prompt": "fold the towel"}, "prompt", "is not a field of /act"),
        ({"state": "1"}, "observation/state", "expected a list of numbers"),
        ({"observation": {}}, "observation", "parts by name"),
        ({"observation": {"arm": {"left": ONE}}}, "observation/arm", "an encoded array with exactly the keys"),
        ({"observation": {"arm": ONE, "tool": [ONE, ONE]}}, "observation/arm", r"\(2, 1\): 2 rows, as 'tool' of"),
        (
            {"observation": {"arm": [ONE, ONE], "tool": [ONE]}},
            "observation/tool",
            r"\(2, 2\): 2 rows.*found shape \(1, 2",
        ),
        (
            {"observation": {"arm": [ONE, ONE], "tool": ONE}},
            "observation/tool",
            r"\(2, 1\).*'arm' of shape \(2, 2\)",
        ),
        ({"observation": {"arm": [ONE, ONE], "tool": 0.5}}, "observation/tool", r"\(2, 1\).*found shape \(1,\)"),
        ({"observation": {"arm": [ONE, ONE], "tool": [1, 2, 3]}}, "observation/tool", r"\(2, 3\).*found shape \(3,\)"),
        ({"observation": {"arm": ONE, "tool": [None]}}, "observation/tool", "numbers; found null"),
        ({"observation": {"arm": ONE, "tool": True}}, "observation/tool", "expected a list of numbers"),
        ({"observation": {"arm": ONE, "tool": [1e39]}}, "observation/tool", "finite numbers within float32"),
        ({"observation": [[ONE, ONE]]}, "observation", "a time axis of 1: one observation, no history"),
        ({"observation": json_numpy(np.zeros((1, 2, 3)))}, "observation", r"a time axis of 1.*\(1, 2, 3\)"),
        ({"observation": {"eye": json_numpy(np.zeros((9, 9, 3)))}}, "observation/eye", "no history and no image"),
        ({"observation": json_numpy(np.zeros((1, 0, 3)))}, "observation", "none of them 0"),
        ({"observation": [json_numpy(np.array(True)), 1]}, "observation", "numbers; found True"),
    ],
)
def test_what_is_wrong_with_an_observation_is_named(fields: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        parse(fields, codec.JSON)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": b"O"}, "one of kind b'O', which is never read"),
        ({"kind": "V"}, "one of kind 'V', which is never read"),
        ({"type": [["x", "<f4"]]}, "a dtype of real numbers"),
        ({"type": "|b1"}, "a dtype of real numbers"),
        ({"type": "|O"}, "a dtype of real numbers"),
        ({"data": "12345678"}, "data as bytes"),
        ({"data": b"1234567"}, "8 bytes for <f4"),
        ({"shape": [1, 1, 1, 2]}, "at most 3 sizes"),
        ({"nd": 1}, "numbers|keys"),
        ({"extra": 1}, "exactly the keys"),
    ],
)
def test_what_is_wrong_with_an_array_of_msgpack_numpy_is_named(change: dict[str, Any], says: str) -> None:
    value = msgpack_numpy(np.array([1, 2], np.float32), str) | change
    with pytest.raises(InvalidRequest, match=says) as caught:
        parse({"observation": value}, codec.MSGPACK)
    assert (caught.value.field or "").startswith("observation")


@pytest.mark.parametrize("number", [np.int64(8), np.uint8(8), np.float32(8)])
@pytest.mark.parametrize("encode", [openpi, msgpack_numpy, json_numpy])
def test_numbers_of_a_budget_may_be_numpys(number: np.generic, encode: Any) -> None:
    media_type = codec.JSON if encode is json_numpy else codec.MSGPACK
    given = dict.fromkeys(("num_candidates", "num_steps", "priority", "seed", "deadline_ms"), encode(number))
    request = parse({"observation": ONE, **given, "return_candidates": encode(np.bool_(True))}, media_type)
    assert [getattr(request, name) for name in given] == [8] * 5
    assert all(type(getattr(request, name)) is int for name in ("num_candidates", "num_steps", "priority", "seed"))
    assert request.return_candidates is True


def test_seeds_may_be_a_list_of_numpys() -> None:
    seeds = [openpi(np.uint64(2**64 - 1)), 3.0, msgpack_numpy(np.int32(7))]
    assert parse({"observation": [ONE] * 3, "seed": seeds}, codec.MSGPACK).seed == [2**64 - 1, 3, 7]


@pytest.mark.parametrize("field", ["temperature", "num_candidates", "min_quality"])
@pytest.mark.parametrize("value", [{"nd": False}, {"nd": False, "type": "<f4", "data": b"1"}, {"__npgeneric__": True}])
def test_a_scalar_that_is_damaged_is_named(field: str, value: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field}: ") as caught:
        parse({"observation": ONE, field: value}, codec.MSGPACK)
    assert caught.value.field == field


@pytest.mark.parametrize("deadline", [0, -0.02, 3.7e6])
def test_a_deadline_out_of_range_is_told_its_unit(deadline: float) -> None:
    with pytest.raises(InvalidRequest, match=r"^deadline_ms: .*\(milliseconds\)"):
        parse({"observation": ONE, "deadline_ms": deadline}, codec.JSON)
