"""Observations as parts by name: what is sent, what is refused by name, and that a real server understands it."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import ChainMap, OrderedDict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sorl_client import (
    Ask,
    AsyncClient,
    Client,
    ControlLoop,
    InvalidArgument,
    RequestRefused,
    WrongArgumentType,
    wire,
)
from sorl_client.observation import row_of, rows_of

from policy import ObservationKey, save_policy
from service.settings import Settings
from tests.client.conftest import array
from tests.client.network import BUSY, Script
from tests.policies import random_policy
from tests.service.listening import listening

KEYS = (ObservationKey("joint_pos", 4), ObservationKey("gripper", 1), ObservationKey("arm/tip", 2))
HUGE = 10**5000


def parts_of(rows: Any) -> dict[str, Any]:
    """(..., 7) as the parts of `KEYS`, in another order than theirs."""
    rows = np.asarray(rows, np.float32)
    return {"arm/tip": rows[..., 5:], "gripper": rows[..., 4:5], "joint_pos": rows[..., :4]}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a server of one policy that knows the parts of `KEYS`."""
    path = tmp_path / "keyed.safetensors"
    save_policy(random_policy(3, name="keyed", obs_dim=7, observation_keys=KEYS, control_hz=10.0), path)
    return Settings(model=path, threads=1, precision="fp32")


# --- what is sent


def test_parts_are_sent_by_name(ask: Any, good: Any) -> None:
    script = Script(good)
    ask(script, "act", {"joint_pos": [0] * 3, "gripper": 0.5})
    assert script.sent[0]["observation"] == {"joint_pos": array([0.0] * 3), "gripper": array([0.5])}


def test_parts_are_lists_in_json(ask: Any, reply_to: Any) -> None:
    sent = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(200, json=reply_to(sent[-1], [1.0, 2.0]))

    parts = {"joint_pos": np.zeros((2, 3)), "gripper": ((0.5,), (1,))}
    ask(handler, "act", parts, options={"media_type": wire.JSON})
    assert sent[0]["observation"] == {"joint_pos": [[0.0] * 3] * 2, "gripper": [[0.5], [1.0]]}


@pytest.mark.parametrize(
    "parts",
    [
        {"arm": [1, 2], "gripper": 0.5},
        {"gripper": np.float64(0.5), "arm": (1.0, np.float16(2))},
        OrderedDict(arm=np.array([1, 2], np.int8), gripper=np.array(0.5)),
        MappingProxyType({"arm": np.array([1.0, 9.0, 2.0])[::2], "gripper": [np.array(0.5)]}),
        ChainMap({"arm": [1, 2]}, {"gripper": [0.5]}),
        {"observation.arm": [1, 2], "observation/gripper": [0.5]},  # LeRobot's spelling, and openpi's
    ],
    ids=str,
)
def test_any_mapping_of_any_numbers_is_taken(parts: Any) -> None:
    found = rows_of(parts)
    assert isinstance(found, dict)
    assert {name: (part.dtype, part.tolist()) for name, part in found.items()} == {
        "arm": (np.float32, [1.0, 2.0]),
        "gripper": (np.float32, [0.5]),
    }


def test_names_that_are_not_all_spelt_with_observation_are_names_as_they_are() -> None:
    found = rows_of({"observation.arm": [1], "gripper": [2], "observation": [3], "observation/": [4]})
    assert isinstance(found, dict)
    assert list(found) == ["observation.arm", "gripper", "observation", "observation/"]


@pytest.mark.parametrize("shapes", [((2, 3), (2, 1)), ((2, 1, 3), (2, 1, 1)), ((2, 1, 3), (2, 1)), ((3,), ())])
def test_batches_and_a_time_axis_are_kept(shapes: tuple[tuple[int, ...], ...]) -> None:
    found = rows_of({"a": np.zeros(shapes[0]), "b": np.zeros(shapes[1])})
    assert isinstance(found, dict)
    assert [part.shape for part in found.values()] == [shapes[0], shapes[1] or (1,)]


NAMES = st.text(max_size=8).filter(str.isprintable)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.dictionaries(NAMES, st.lists(FINITE)))
def test_parts_are_taken_to_the_bit_whatever_their_names(parts: dict[str, list[float]]) -> None:
    named = {f"_{name}": values for name, values in parts.items()} | {"_last": [1.0]}
    found = rows_of(named)
    assert isinstance(found, dict)
    assert {name: part.tobytes() for name, part in found.items()} == {
        name: np.array(values, np.float32).tobytes() for name, values in named.items()
    }


@pytest.mark.parametrize("spell", [lambda rows: rows, lambda rows: {"arm": rows, "tip": 1.0}])
def test_the_observation_may_be_changed_between_attempts(ask: Any, good: Any, spell: Any) -> None:
    """A robot reuses its buffers, and another thread may write them while a call waits for its retry."""
    buffer = np.array([0.5, 0.25], np.float32)
    given = spell(buffer)

    def busy(*_: Any) -> Any:
        buffer[:] = 7.0
        if isinstance(given, dict):
            given["tip"] = 8.0
        return BUSY

    script = Script(busy, good)
    ask(script, "act", given)
    assert script.sent[0]["observation"] == script.sent[1]["observation"]


# --- what is refused


@pytest.mark.parametrize(
    ("parts", "name", "says", "kind"),
    [
        ({"arm": [0.0, float("nan")]}, "arm", "finite numbers within float32; found nan at [1]", ValueError),
        ({"arm": [0.0, None]}, "arm", "an array of numbers; found [0.0, None]", TypeError),
        ({"arm": float("inf")}, "arm", "finite numbers within float32; found inf", ValueError),
        ({"arm": [1e39]}, "arm", "finite numbers within float32; found 1e+39 at [0]", ValueError),
        ({"arm": [HUGE]}, "arm", "finite numbers within float32; found ", ValueError),
        ({"arm": [0.0], "tip": "0.5"}, "tip", "an array of numbers; found '0.5'", TypeError),
        ({"arm": ["0.5"]}, "arm", "an array of numbers; found ['0.5']", TypeError),
        ({"arm": None}, "arm", "an array of numbers; found None", TypeError),
        ({"arm": {"left": [0.0]}}, "arm", "an array of numbers; found {'left': [0.0]}", TypeError),
        ({"arm": [1j]}, "arm", "an array of numbers; found [1j]", TypeError),
        ({"arm": [[0.0], [0.0, 1.0]]}, "arm", "an array of numbers; found [[0.0], [0.0, 1.0]]", ValueError),
        ({"arm": [0.0] * 2, "tip": [[0.0]]}, "tip", "as many rows as observation['arm'], of shape (2,)", ValueError),
        ({"arm": [[0.0]] * 2, "tip": [0.0] * 2}, "tip", "as many rows as observation['arm'], of shape", ValueError),
        ({"arm": [[0.0]] * 2, "tip": [[0.0]]}, "tip", "as many rows as observation['arm'], of shape", ValueError),
        ({"observation.arm": [0.0], "observation/arm": [0.0]}, "arm", "it once; found 'observation.arm'", ValueError),
        ({}, None, "an array of numbers, or a mapping of names to such arrays; found no parts", ValueError),
        ({5: [0.0]}, None, "names of parts as printable text; found 5", TypeError),
        ({"": [0.0]}, None, "names of parts as printable text; found ''", ValueError),
        ({"arm": [0.0], "\ud800": [0.0]}, None, r"names of parts as printable text; found '\ud800'", ValueError),
        ({b"arm": [0.0]}, None, "names of parts as printable text; found b'arm'", TypeError),
        ("arm", None, "an array of numbers, or a mapping of names to such arrays; found 'arm'", TypeError),
        ([{"arm": [0.0]}], None, "an array of numbers, or a mapping of names to such arrays; found [{", TypeError),
    ],
    ids=itertools.count(),
)
@pytest.mark.parametrize("media_type", [wire.MSGPACK, wire.JSON])
def test_a_part_at_fault_is_refused_by_name_and_nothing_is_sent(
    ask: Any, good: Any, parts: Any, name: str | None, says: str, kind: type[Exception], media_type: str
) -> None:
    script = Script(good)
    with pytest.raises(InvalidArgument) as caught:
        ask(script, "act", parts, options={"media_type": media_type})
    error = caught.value
    label = "observation" if name is None else f"observation[{name!r}]"
    assert str(error).startswith(f"invalid_argument: {label}: expected {says}")
    assert error.field == ("observation" if name is None else f"observation/{name}")  # as in the server's errors
    assert isinstance(error, WrongArgumentType) == (kind is TypeError)
    assert script.sent == []


def test_a_part_keeps_the_name_that_it_was_given_by() -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid_argument: observation\['observation/arm'\]: ") as caught:
        rows_of({"observation/arm": "left"})
    assert caught.value.field == "observation/arm"


@pytest.mark.parametrize("part", ["x" * 10_000, [float("nan")] * 10_000, np.zeros((1, 1, 1))])
def test_a_refusal_is_one_short_line_however_long_the_name(part: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        rows_of({"y" * 10_000: [0.0], "x" * 10_000: part})
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_only_an_observation_has_parts(ask: Any, good: Any) -> None:
    script = Script(good)
    with pytest.raises(WrongArgumentType, match="committed: expected an array of numbers; found"):
        ask(script, committed={"arm": [[0.0]]})
    assert script.sent == []


@pytest.mark.parametrize(
    ("observation", "says"),
    [
        ([[0.0]], r"observation: expected one row of numbers; found shape \(1, 1\)"),
        (0.5, r"observation: expected one row of numbers; found shape \(\)"),
        ({"arm": [[0.0]]}, r"observation\['arm'\]: expected one row of numbers; found shape \(1, 1\)"),
    ],
)
def test_one_observation_is_one_row(observation: Any, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        row_of(observation)


# --- on a real server


@pytest.mark.anyio
@pytest.mark.parametrize("media_type", [wire.MSGPACK, wire.JSON])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_a_real_server_puts_parts_together(settings: Settings, kind: Any, media_type: wire.MediaType) -> None:
    batch = np.random.default_rng(0).normal(size=(2, 7)).astype(np.float32)
    one = parts_of(batch[0]) | {"gripper": float(batch[0, 4])}
    spelt = {f"observation.{name}": part for name, part in one.items()}
    asked = [batch, parts_of(batch), parts_of(batch[:, None]), batch[0], one, spelt]
    fields = {"num_candidates": 4, "num_steps": 2, "seed": 5}
    async with listening(settings) as server:
        url = f"http://127.0.0.1:{server.port}"
        if kind is AsyncClient:
            async with AsyncClient(url, media_type=media_type) as client:
                replies = [await client.act(observation, **fields) for observation in asked]
                with pytest.raises(RequestRefused) as caught:
                    await client.act({"joint_pos": [0.0] * 4, "gripper": 0.5})
        else:
            with Client(url, media_type=media_type) as blocking:
                replies = [await asyncio.to_thread(blocking.act, observation, **fields) for observation in asked]
                with pytest.raises(RequestRefused) as caught:
                    await asyncio.to_thread(blocking.act, {"joint_pos": [0.0] * 4, "gripper": 0.5})
    assert replies[0].action.shape == (2, 3)
    assert [reply.action.tolist() for reply in replies[:3]] == [replies[0].action.tolist()] * 3
    assert [reply.action.tolist() for reply in replies[3:]] == [replies[3].action.tolist()] * 3
    assert (caught.value.status, caught.value.field) == (422, "observation/arm/tip")
    assert "it is missing" in caught.value.detail


@pytest.mark.anyio
async def test_a_control_loop_takes_parts(settings: Settings) -> None:
    """Unhurried ticks, which a busy machine keeps to."""
    rows = np.random.default_rng(1).normal(size=(3, 7)).astype(np.float32)
    ask = Ask(num_candidates=4, num_steps=2)

    def drive(url: str) -> tuple[list[Any], list[Any]]:
        with Client(url) as client, ControlLoop(client, ask, hz=0.1, sleep=lambda seconds: None) as loop:
            ticks = [loop.step(parts_of(row), seed=5) for row in rows]
            with pytest.raises(RequestRefused, match="observation/arm/tip: it is missing"):
                loop.step({"joint_pos": [0.0] * 4, "gripper": 0.5})
            return ticks, [client.act(row, num_candidates=4, num_steps=2, seed=5) for row in rows]

    async with listening(settings) as server:
        ticks, replies = await asyncio.to_thread(drive, f"http://127.0.0.1:{server.port}")
    assert [tick.source for tick in ticks] == ["fresh"] * 3
    assert [tick.action.tolist() for tick in ticks] == [reply.action.tolist() for reply in replies]


def test_any_mapping_is_encoded() -> None:
    parts = ChainMap({"a": np.array([1.0], np.float32)}, {"b": np.float32(2)})
    assert msgpack.unpackb(wire.encode(parts)) == {"a": array([1.0]), "b": 2.0}
    assert json.loads(wire.encode(parts, wire.JSON)) == {"a": [1.0], "b": 2.0}
