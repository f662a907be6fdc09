"""Chunks of actions, from replies as they should not be, and from a real server with a policy of h = 4."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sorl_client import Action, Ask, AsyncClient, Client, ControlLoop, InvalidReply, Tick, wire

from kernels.backend import SampleBatch, SampleResult
from kernels.reference import ReferenceBackend
from policy import load_policy, save_policy
from service.settings import Settings
from tests.client.conftest import reply_to
from tests.client.network import Script
from tests.policies import random_policy
from tests.service.listening import listening

HORIZON, ACTION_DIM, OBS_DIM = 4, 3, 6
LOW, HIGH = np.array([-2.0, -1.0, 0.0]), np.array([1.0, 1.0, 4.0])
N, M, SEED = 6, 3, 9
ASKED: dict[str, Any] = {"num_candidates": N, "num_steps": M, "seed": SEED, "return_candidates": True}
OBSERVATIONS = np.random.default_rng(0).normal(size=(2, OBS_DIM)).astype(np.float32)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a server of one policy, of horizon 4 at 25 Hz."""
    path = tmp_path / "chunked.safetensors"
    limits = {"action_low": tuple(LOW.tolist()), "action_high": tuple(HIGH.tolist())}
    fields = {"name": "chunked", "obs_dim": OBS_DIM, "action_horizon": HORIZON, "control_hz": 25.0}
    save_policy(random_policy(3, **fields, **limits), path)
    return Settings(model=path, threads=1, precision="fp32")


def in_units(actions: Any) -> np.ndarray:
    """(..., 12) in [-1, 1] -> (..., 4, 3) in environment units, written out: action by action, each scaled alike."""
    chunks = np.stack([np.asarray(actions)[..., 3 * i : 3 * i + 3] for i in range(HORIZON)], axis=-2)
    return LOW + (chunks + 1) / 2 * (HIGH - LOW)


def truth(settings: Settings) -> SampleResult:
    """The definition, in float64; row b has the seed SEED + b."""
    backend = ReferenceBackend(load_policy(settings.model), dtype=torch.float64)
    seeds = [SEED + row for row in range(len(OBSERVATIONS))]
    return backend.sample_and_score(SampleBatch.of(OBSERVATIONS, N, M, seeds, return_candidates=True))


def close(found: Any, expected: Any) -> None:
    assert found.shape == np.shape(expected)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.anyio
@pytest.mark.parametrize("media_type", [wire.MSGPACK, wire.JSON])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_a_real_servers_chunks(settings: Settings, kind: Any, media_type: wire.MediaType) -> None:
    expected = truth(settings)
    action, candidates = in_units(expected.action), in_units(expected.candidates)
    async with listening(settings) as server:
        url = f"http://127.0.0.1:{server.port}"
        if kind is AsyncClient:
            async with AsyncClient(url, media_type=media_type) as client:
                batch, single = [await client.act(rows, **ASKED) for rows in (OBSERVATIONS, OBSERVATIONS[0])]
        else:
            with Client(url, media_type=media_type) as blocking:
                batch, single = [
                    await asyncio.to_thread(blocking.act, rows, **ASKED) for rows in (OBSERVATIONS, OBSERVATIONS[0])
                ]
    for reply in (batch, single):
        assert (reply.action_horizon, reply.control_hz) == (HORIZON, 25.0)
    close(batch.action, action)
    close(batch.candidates, candidates)
    close(batch.q, expected.q)
    close(single.action, action[0])
    close(single.candidates, candidates[0])
    assert isinstance(single.q, float)


@pytest.mark.anyio
async def test_a_control_loop_on_a_real_server(settings: Settings) -> None:
    """Unhurried ticks, which a busy machine keeps to. Only the first chunk and those at seams are waited for."""
    rows = np.random.default_rng(1).normal(size=(8, OBS_DIM)).astype(np.float32)
    ask = Ask(num_candidates=N, num_steps=M)

    def drive(url: str) -> tuple[list[Tick], list[Action]]:
        with Client(url) as client, ControlLoop(client, ask, hz=0.1, sleep=lambda seconds: None) as loop:
            ticks = []
            for row in rows:
                ticks.append(loop.step(row, seed=SEED))
                loop.wait()
            fields = {"num_candidates": N, "num_steps": M, "seed": SEED}
            chunks = [client.act(rows[0], **fields)]
            for observed in (3, 6):  # the last action of the chunk before is executed meanwhile
                chunks.append(client.act(rows[observed], committed=chunks[-1].action[3:], **fields))
            return ticks, chunks

    async with listening(settings) as server:
        ticks, chunks = await asyncio.to_thread(drive, f"http://127.0.0.1:{server.port}")
    places = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (2, 1)]
    assert [(tick.chunk, tick.index) for tick in ticks] == places
    for tick, (chunk, index) in zip(ticks, places, strict=True):
        assert tick.action.tolist() == chunks[chunk].action[index].tolist()


def reply(**changes: Any) -> dict[str, Any]:
    """A good reply with a chunk of 4 actions of width 3, drawn from 2 candidates; and `changes`."""
    chunk = np.zeros((HORIZON, ACTION_DIM)).tolist()
    members = {"action_horizon": HORIZON, "control_hz": 25, "num_candidates": 2}
    members |= {"candidates": [chunk, chunk], "candidate_q": [0.0, 0.0]}
    return reply_to({"request_id": "r"}, chunk) | members | changes


def read(fields: dict[str, Any]) -> Action:
    return Action.from_reply(fields, latency_ms=1.0, attempts=1)


def test_single_actions_have_a_horizon_of_one() -> None:
    found = read(reply_to({"request_id": "r"}, [0.0, 1.0]))
    assert (found.action.shape, found.action_horizon, found.control_hz) == ((2,), 1, None)


@pytest.mark.parametrize("hz", [25, None])
def test_a_chunks_rate_may_be_unknown(hz: float | None) -> None:
    found = read(reply(control_hz=hz))
    assert (found.action.shape, found.action_horizon, found.control_hz) == ((4, 3), 4, hz)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"action_horizon": 0}, "action_horizon: expected an integer from 1"),
        ({"action_horizon": "4"}, "action_horizon: expected an integer from 1"),
        ({"control_hz": "fast"}, "control_hz: expected a number"),
        ({"control_hz": 0}, "control_hz: expected a number"),
        ({"action_horizon": 3}, r"action: expected shape \(3, action_dim\) or \(B, 3, action_dim\), got \(4, 3\)"),
        ({"action": [0.0] * 12}, r"action: expected shape \(4, action_dim\) or .*, got \(12,\)"),
        ({"action": [[[[0.0]] * 4]]}, r"action: expected shape"),
        ({"action_horizon": None}, r"q: expected shape \(4,\), got \(\)"),  # it would be a batch of four
        ({"action": [[[0.0] * 3] * 4] * 2}, r"q: expected shape \(2,\), got \(\)"),
        ({"action": [[0.0] * 3] * 3 + [[0.0, 0.0, float("nan")]]}, "action is not finite"),
        ({"candidates": [[0.0] * 3] * 2}, r"candidates: expected shape \(2, 4, 3\), got \(2, 3\)"),
        ({"candidates": [[[0.0] * 3] * 4] * 3}, r"candidates: expected shape \(2, 4, 3\), got \(3, 4, 3\)"),
        ({"candidate_q": [0.0]}, r"candidate_q: expected shape \(2,\), got \(1,\)"),
    ],
    ids=str,
)
def test_chunks_that_do_not_fit_are_refused(ask: Any, good: Any, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read(reply(**changes))
    with pytest.raises(InvalidReply, match=complaint):
        ask(Script(lambda request, fields: good(request, fields, **reply(**changes, request_id=fields["request_id"]))))
