"""Sessions over real sockets: who may begin one, what each frame gets, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from policy import ObservationKey
from service.recording.replay import main as replay
from service.web import openpi
from tests.service.listening import Listening, listening
from tests.service.process import WAIT
from tests.service.waiting import until

Rows = Callable[[int], list[list[float]]]
VLLM_OMNI = "/v1/realtime/robot/openpi"

pytestmark = pytest.mark.anyio


def pack(**fields: Any) -> bytes:
    return msgpack.packb(fields)


def unpack(frame: str | bytes) -> Any:
    assert isinstance(frame, bytes), frame

    def array(value: dict[Any, Any]) -> Any:
        if b"__ndarray__" in value:
            return np.ndarray(value[b"shape"], value[b"dtype"], value[b"data"])
        return value

    return msgpack.unpackb(frame, object_hook=array)


@asynccontextmanager
async def session(
    port: int, path: str = "/openpi", key: str | None = None
) -> AsyncIterator[tuple[ClientConnection, dict[str, Any]]]:
    """A connection and the metadata that came over it."""
    headers = {} if key is None else {"Authorization": f"Api-Key {key}"}
    uri = f"ws://127.0.0.1:{port}{path}"
    async with connect(uri, compression=None, additional_headers=headers, proxy=None, open_timeout=WAIT) as client:
        yield client, unpack(await client.recv())


async def ask(client: ClientConnection, **fields: Any) -> Any:
    await client.send(pack(**fields))
    return await asyncio.wait_for(client.recv(), WAIT)


async def closed(client: ClientConnection) -> int:
    """The code with which the server closed."""
    with pytest.raises(ConnectionClosed) as caught:
        await asyncio.wait_for(client.recv(), WAIT)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code


async def refused(port: int, path: str = "/openpi", key: str | None = None) -> tuple[int, dict[str, Any]]:
    """The status and the problem that an upgrade got."""
    with pytest.raises(InvalidStatus) as caught:
        async with session(port, path, key):
            pass
    response = caught.value.response
    return response.status_code, json.loads(response.body or b"null")


async def outcomes(server: Listening) -> dict[str, float]:
    """Requests of this protocol so far, by outcome, where there were any."""
    lines = (await server.client.get("/metrics")).text.splitlines()
    begin = 'sorl_requests_total{code="'
    found = [line for line in lines if line.startswith(begin) and 'protocol="openpi"' in line]
    counts = {line.split('outcome="')[1].split('"')[0]: float(line.split()[-1]) for line in found}
    return {outcome: count for outcome, count in counts.items() if count}


async def entered(backend: Any) -> None:
    """The engine has begun a batch, which waits at its gate."""
    assert await asyncio.to_thread(backend.entered.acquire, timeout=WAIT)


async def test_a_session_answers_as_act_does(make_settings: Any, observations: Rows) -> None:
    (row,) = observations(1)
    fields = {"observation": row, "seed": 5, "num_candidates": 4, "num_steps": 2, "request_id": "r1"}
    async with listening(make_settings()) as server, session(server.port) as (client, metadata):
        (entry,) = (await server.client.get("/models")).json()["models"]
        renamed = {"model": entry.pop("name"), "model_version": entry.pop("version"), "action_horizon": 1}
        assert metadata == {**renamed, **entry}

        truth = (await server.client.post("/act", json=fields)).json()
        first, second = unpack(await ask(client, **fields)), unpack(await ask(client, **fields))
        for reply in (first, second):
            assert reply["actions"].dtype == np.float32
            np.testing.assert_array_equal(reply["actions"], np.array([truth["action"]], np.float32))
            same = truth.keys() - {"action", "timing_ms"}
            assert {name: reply[name] for name in same} == {name: truth[name] for name in same}
        assert first["server_timing"].keys() == {"infer_ms", "queue_ms"}
        assert second["server_timing"].keys() == {"infer_ms", "queue_ms", "prev_total_ms"}
        assert second["server_timing"]["prev_total_ms"] >= first["server_timing"]["infer_ms"] > 0
        assert unpack(await ask(client, __ctrl__="episode_end")) == {}
        assert await outcomes(server) == {"ok": 2}


async def test_every_path_of_its_own_port_is_openpis(make_settings: Any, observations: Rows) -> None:
    (row,) = observations(1)
    async with listening(make_settings()) as server:
        for path in ("/", "/anything/else", "/openpi"):
            async with session(server.openpi_port, path) as (client, _):
                assert unpack(await ask(client, observation=row))["actions"].shape == (1, 3)
        for path in ("/", "/openpi/more", "/act"):
            status, problem = await refused(server.port, path)
            assert (status, problem["code"]) == (404, "not_found")
        health = await server.client.get(f"http://127.0.0.1:{server.openpi_port}/healthz")
        assert health.json() == {"status": "ok"}
        assert await outcomes(server) == {"ok": 3}


async def test_vllm_omnis_form(make_settings: Any, observations: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = observations(1)
    async with listening(make_settings()) as server, session(server.openpi_port, VLLM_OMNI) as (client, metadata):
        assert metadata["action_horizon"] == 1
        truth = (await server.client.post("/act", json={"observation": row, "seed": 5, "num_steps": 2})).json()
        assert unpack(await ask(client, endpoint="reset")) == {"status": "reset successful"}
        steps = {"num_inference_steps": 2}
        actions = unpack(await ask(client, endpoint="infer", observation=row, seed=5, sampling_params=steps))
        np.testing.assert_array_equal(actions, np.array([truth["action"]], np.float32))
        error = unpack(await ask(client, observation=row[1:]))
        assert error["type"] == "error"
        assert error["message"].startswith("invalid_request: observation: expected 6 numbers")
        monkeypatch.setattr(openpi.openpi.VLLM_OMNI, "idle_seconds", 0.01)
        assert unpack(await ask(client, endpoint="reset"))  # the session outlives an error, and is idle from now on
        assert await closed(client) == 1000


async def test_a_wrong_request_gets_its_error_as_text_and_ends_the_session(
    make_settings: Any, observations: Rows
) -> None:
    (row,) = observations(1)
    async with listening(make_settings()) as server:
        for fields, said in (
            ({"observation": row[1:]}, "invalid_request: observation: expected 6 numbers"),
            ({"observation": observations(2)}, "invalid_request: observation: expected one"),
            ({"observation": row, "model": "none"}, "unknown_model: "),
            ({"observation": row, "num_candidates": 10**6}, "budget_too_large: num_candidates"),
        ):
            async with session(server.port) as (client, _):
                error = await ask(client, **fields)
                assert isinstance(error, str)
                assert error.startswith(said)
                assert await closed(client) == 1011
        async with session(server.port) as (client, _):
            await client.send("a text frame")
            assert "found a text frame" in await client.recv()
            assert await closed(client) == 1011
        assert await outcomes(server) == {"invalid_request": 3, "unknown_model": 1, "budget_too_large": 1}


IMAGE = {
    b"__ndarray__": True, b"data": bytes(8 * 8 * 3), b"dtype": "|u1", b"shape": [8, 8, 3]
}  # fmt: skip


@pytest.mark.parametrize("spelt", ["observation/image", "observation.image"])
async def test_a_part_that_the_policy_does_not_take_is_said_to_be_that(
    make_settings: Any, write: Any, observations: Rows, spelt: str
) -> None:
    (row,) = observations(1)
    keys = (ObservationKey("joint_pos", 5), ObservationKey("gripper", 1))
    write("keyed", 1, observation_keys=keys)
    folder = write("plain", 2).parent
    parts = {"observation/joint_pos": row[:5], "observation/gripper": [row[5]]}
    wanted = "'keyed' has no such part: expected joint_pos 5, gripper 1"
    async with listening(make_settings(model=folder, default_model="keyed")) as server:
        for fields, said in (
            ({**parts, spelt: IMAGE}, f"observation/image: {wanted}"),
            ({spelt: IMAGE}, f"observation/image: {wanted}"),
            ({**parts, "observation/task": "fold the towel"}, f"observation/task: {wanted}"),
            ({**parts, "observation/gripper": IMAGE}, "observation/gripper: expected a time axis of 1"),
            (
                {"observation/state": row, spelt: IMAGE, "model": "plain"},
                "observation/image: 'plain' has no such part: expected state 6",
            ),
            ({"observation/state": IMAGE, "model": "plain"}, "observation/state: expected a time axis of 1"),
            (
                {"observation": {"state": row, "image": [row, row]}, "model": "plain"},
                "observation/image: 'plain' has no such part: expected state 6",
            ),
            ({"observation/image": [row, row]}, f"observation/image: {wanted}"),
            ({**parts, "observation/image": IMAGE, "seed": -1}, f"observation/image: {wanted}"),
            ({**parts, "seed": -1}, "seed: "),
            ({spelt: IMAGE, "model": "none"}, "model: 'none' is not served"),
            ({spelt: IMAGE, "model": ["none"]}, f"observation/image: {wanted}"),
        ):
            async with session(server.port) as (client, _):
                error = await ask(client, **fields)
                assert isinstance(error, str)
                assert error.partition(": ")[2].startswith(said), error


async def test_a_frame_that_is_too_long_is_not_read(make_settings: Any, observations: Rows) -> None:
    async with listening(make_settings(max_body_bytes=4096)) as server, session(server.port) as (client, _):
        await client.send(bytes(4097))
        assert await closed(client) == 1009


async def test_a_missed_deadline_leaves_the_session_open(make_settings: Any, observations: Rows) -> None:
    (row,) = observations(1)
    exact = {"observation": row, "num_candidates": 4096, "num_steps": 8, "on_late": "reject", "deadline_ms": 0.001}
    async with listening(make_settings()) as server, session(server.port) as (client, _):
        error = await ask(client, **exact)
        assert isinstance(error, str)
        assert error.startswith("deadline_exceeded: ")
        assert unpack(await ask(client, observation=row))["actions"].shape == (1, 3)
        assert await outcomes(server) == {"deadline_exceeded": 1, "ok": 1}


async def test_without_a_key_there_is_no_session(make_settings: Any, observations: Rows) -> None:
    (row,) = observations(1)
    async with listening(make_settings(api_key="sesame")) as server:
        for key in (None, "wrong"):
            status, problem = await refused(server.port, key=key)
            assert (status, problem["code"]) == (401, "unauthorized")
        async with session(server.port, key="sesame") as (client, _):
            assert unpack(await ask(client, observation=row))["actions"].shape == (1, 3)
        assert await outcomes(server) == {"unauthorized": 2, "ok": 1}


async def test_an_upgrade_waits_for_warm_up(make_settings: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated

    def shut(*choices: Any) -> Any:
        backend = make_backend(*choices)
        backend.shut()
        return backend

    async with listening(make_settings(), shut, settle=False) as server:
        await entered(made[0])
        early = asyncio.ensure_future(_first_reply(server.port, observations(1)[0]))
        await until(lambda: server.server.server_state.tasks)  # the upgrade has come
        assert not early.done()
        made[0].gate.set()
        assert (await early)["actions"].shape == (1, 3)


async def _first_reply(port: int, row: list[float]) -> Any:
    async with session(port) as (client, _):
        return unpack(await ask(client, observation=row))


async def test_an_upgrade_does_not_wait_for_ever(
    make_settings: Any, gated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_backend, made = gated

    def shut(*choices: Any) -> Any:
        backend = make_backend(*choices)
        backend.shut()
        return backend

    monkeypatch.setattr(openpi, "WARM_UP_SECONDS", 0.01)
    async with listening(make_settings(), shut, settle=False) as server:
        await entered(made[0])
        status, problem = await refused(server.port)
        assert (status, problem["detail"]) == (503, "not ready: warming up")
        made[0].gate.set()
        await server.app.state.runtime.lifecycle.settled()


async def test_a_client_that_hangs_up_is_computed_for_no_longer(
    make_settings: Any, gated: Any, observations: Rows
) -> None:
    make_backend, made = gated
    row = observations(1)[0]
    async with listening(make_settings(), make_backend) as server:
        made[0].shut()
        async with session(server.port) as (running, _), session(server.port) as (queued, _):
            await running.send(pack(observation=row))
            await entered(made[0])
            await queued.send(pack(observation=row))
            await until(lambda: server.app.state.runtime.scheduler.queued)
        await until(lambda: not server.app.state.runtime.scheduler.queued)
        made[0].gate.set()
        while (await outcomes(server)).get("client_gone") != 2:
            pass
        assert len(made[0].batches) == 1


async def test_frames_sent_ahead_are_answered_in_order(make_settings: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated
    rows = observations(8)
    async with listening(make_settings(), make_backend) as server, session(server.port) as (client, _):
        truth = [(await server.client.post("/act", json={"observation": row, "seed": 1})).json() for row in rows]
        made[0].shut()
        for number, row in enumerate(rows):  # more than the server reads ahead
            await client.send(pack(observation=row, seed=1, request_id=f"r{number}"))
        await entered(made[0])
        made[0].gate.set()
        for number, expected in enumerate(truth):
            reply = unpack(await client.recv())
            assert reply["request_id"] == f"r{number}"
            np.testing.assert_array_equal(reply["actions"], np.array([expected["action"]], np.float32))


async def test_a_drain_answers_what_was_accepted_and_closes_every_session(
    make_settings: Any, gated: Any, observations: Rows
) -> None:
    make_backend, made = gated
    row = observations(1)[0]
    async with (
        listening(make_settings(drain_grace_seconds=0), make_backend) as server,
        contextlib.AsyncExitStack() as sessions,
    ):
        clients = [(await sessions.enter_async_context(session(server.port)))[0] for _ in range(3)]
        busy, late, idle = clients
        made[0].shut()
        await busy.send(pack(observation=row))
        await entered(made[0])
        signal.raise_signal(signal.SIGTERM)
        await until(lambda: server.app.state.runtime.scheduler._closed)
        assert (await ask(late, observation=row)).startswith("not_ready: ")
        assert await closed(late) == 1012
        made[0].gate.set()
        assert unpack(await busy.recv())["actions"].shape == (1, 3)
        assert [await closed(busy), await closed(idle)] == [1012, 1012]
        await asyncio.wait_for(server.serving, WAIT)


async def test_requests_are_recorded_and_replayed(
    make_settings: Any, observations: Rows, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with listening(make_settings(record_dir=tmp_path)) as server, session(server.port) as (client, _):
        for row in observations(3):
            await ask(client, observation=row)
    (recording,) = tmp_path.iterdir()
    assert len(recording.read_text().splitlines()) == 4
    assert await asyncio.to_thread(replay, [str(recording), "--model", str(checkpoint)]) == 0
    assert "3" in capsys.readouterr().out


async def test_nothing_that_a_client_sent_is_logged(
    make_settings: Any, observations: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with listening(make_settings()) as server:
        async with session(server.openpi_port, "/secret?token=secret") as (client, _):
            await ask(client, observation=observations(1)[0], request_id="secret")
        await refused(server.port, "/secret")
        async with session(server.port) as (client, _):
            await client.send([b"\xff\xfesecret"], text=True)
            assert await closed(client) == 1007
    assert "listening on ws://" in caplog.text
    assert "secret" not in caplog.text
    assert "Traceback" not in caplog.text
