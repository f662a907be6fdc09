"""Which model is meant, by name or without one: of entries, and on a real server of two."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sorl_client import Ask, Client, ControlLoop, InvalidArgument
from sorl_client.served import Served, find

from policy import save_policy
from service.settings import Settings
from tests.policies import random_policy
from tests.service.listening import listening

A, B = {"name": "a"}, {"name": "b"}
DEFAULT_B = B | {"default": True}


@pytest.mark.parametrize(
    ("models", "name", "expected"),
    [
        ([A], None, A),
        ([A | {"default": False}], None, A | {"default": False}),
        ([A, DEFAULT_B], None, DEFAULT_B),
        ([A, DEFAULT_B], "a", A),
        ([A, DEFAULT_B], "b", DEFAULT_B),
        ([A, DEFAULT_B], "c", None),
        ([A, B], None, None),  # a server that does not say which is its default
        ([A, B | {"default": "yes"}], None, None),
        ([A | {"default": True}, DEFAULT_B], None, None),
        ([A, A], "a", None),
        ([], None, None),
    ],
)
def test_which_model_is_meant(models: list[dict[str, Any]], name: str | None, expected: dict[str, Any] | None) -> None:
    assert find(models, name) == expected


@pytest.mark.parametrize(
    ("models", "name", "says"),
    [
        ([A, B], None, "model: expected one of those served: a, b; found None, and none is the default"),
        ([A, DEFAULT_B], "c", "model: expected one of those served: a, b; found 'c'"),
        ([], None, "model: expected one of those served: none; found None"),
    ],
)
def test_no_such_model_is_refused_by_name(models: list[dict[str, Any]], name: str | None, says: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Served.of(models, name)
    assert (caught.value.detail, caught.value.field) == (says, "model")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_a_loop_without_a_model_drives_the_servers_default(tmp_path: Path) -> None:
    """The default is not the first in /models, and has another rate and width than it."""
    for name, width, hz in (("arm", 2, 5.0), ("hand", 3, 0.1)):
        policy = random_policy(1, name=name, obs_dim=4, control_hz=hz, action_dim=width,
                               action_low=(-1.0,) * width, action_high=(1.0,) * width)  # fmt: skip
        save_policy(policy, tmp_path / f"{name}.safetensors")
    settings = Settings(model=tmp_path, default_model="hand", threads=1, precision="fp32")

    def drive(url: str) -> list[Any]:
        with Client(url) as client:
            assert [entry["name"] for entry in client.models()] == ["arm", "hand"]
            with ControlLoop(client) as default, ControlLoop(client, Ask(model="arm")) as arm:
                ticks = [default.step([0.0] * 4, seed=3)]
                return [*ticks, default.limit_ms, arm.limit_ms, client.act([0.0] * 4, seed=3)]

    async with listening(settings) as server:
        tick, limit_ms, arms_ms, reply = await asyncio.to_thread(drive, f"http://127.0.0.1:{server.port}")
    assert (tick.source, tick.reply.model, reply.model) == ("fresh", "hand", "hand")
    assert tick.action.tolist() == reply.action.tolist()
    assert (limit_ms, arms_ms) == (pytest.approx(8000.0), pytest.approx(160.0))
