"""GR00T's endpoint in process, over real sockets: answers, errors, drains, and what clients may do to it."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from policy import ObservationKey
from service.app import create_app
from service.cli import main
from service.protocol import decode_array, groot
from service.recording.replay import main as replay
from service.zeromq import router
from tests.service.test_app import metric, yardstick
from tests.service.test_server import running
from tests.service.waiting import until
from tests.service.zeromq.conftest import WAIT, Connect, decode, encode

pytestmark = pytest.mark.anyio

Rows = Callable[[int], list[list[float]]]


def states(rows: list[list[float]]) -> np.ndarray:
    """(B, 1, obs_dim): a batch of one time step, as GR00T has them."""
    return np.array(rows, np.float32)[:, None]


async def test_the_action_is_the_definitions(
    serve: Any, connect: Connect, checkpoint: Path, observations: Rows
) -> None:
    rows = observations(3)
    async with serve(zmq_port=0) as client, connect(client.app) as robot:
        action, info = await robot.act({"state": states(rows)}, num_candidates=8, num_steps=4, seed=9, temperature=0.7)
        response = await client.post("/act", json={"observation": rows, "seed": 9, "temperature": 0.7})
    assert action.keys() == {"action"}
    assert (action["action"].dtype, action["action"].shape) == (np.float32, (3, 1, 3))
    expected = yardstick(checkpoint, rows, 8, 4, [9, 10, 11], 0.7)
    np.testing.assert_allclose(info["q"], expected.q, atol=1e-5)
    over_http = response.json()
    np.testing.assert_allclose(action["action"][:, 0], over_http["action"], atol=1e-6)
    same = over_http.keys() - {"action", "q", "q_std", "observation_z_max", "timing_ms", "request_id"}
    assert {name: info[name] for name in same} == {name: over_http[name] for name in same}
    assert info.keys() == over_http.keys() - {"action"}
    assert 0 < info["timing_ms"]["compute"] < info["timing_ms"]["total"]


async def test_every_form_of_an_observation_has_the_same_answer(
    serve: Any, connect: Connect, observations: Rows
) -> None:
    batch = states(observations(2))
    forms = [
        {"state": {"state": batch}, "video": {}, "language": {}},
        {"state.state": batch},
        {"state": batch[:, 0]},
        {"observation": batch.astype(np.float64)},
        {"observation": {"state": batch}},
        {"observation/state": np.asfortranarray(batch[:, 0])},
        batch.astype(">f4"),
        batch[:, 0].tolist(),
    ]
    async with serve(zmq_port=0) as client, connect(client.app) as robot:
        replies = [await robot.act(form, seed=np.array([3, 4]), num_candidates=np.array(2)) for form in forms]
    for action, info in replies:
        assert action["action"].tobytes() == replies[0][0]["action"].tobytes()
        assert (info["seed"], info["num_candidates"]) == ([3, 4], 2)


async def test_named_states_are_put_together_in_the_policys_order(
    serve: Any, connect: Connect, write: Any, observations: Rows
) -> None:
    model = write("arm", 3, observation_keys=(ObservationKey("joints", 4), ObservationKey("gripper", 2)))
    batch = states(observations(2))
    gripper, joints = batch[..., 4:], batch[..., :4]
    async with serve(zmq_port=0, model=model) as client, connect(client.app) as robot:
        whole, _ = await robot.act({"state": batch}, seed=1)
        nested, _ = await robot.act({"state": {"gripper": gripper, "joints": joints}}, seed=1)
        flat, _ = await robot.act({"state.joints": joints, "state.gripper": gripper}, seed=1)
        config = await robot.call("get_modality_config")
        missing = await robot.act({"state": {"joints": joints}})
    assert whole["action"].tobytes() == nested["action"].tobytes() == flat["action"].tobytes()
    assert config["state"]["as_json"] == {"delta_indices": [0], "modality_keys": ["joints", "gripper"]}
    assert missing["error"].startswith("invalid_request: observation/gripper: it is missing")


async def test_endpoints_that_compute_nothing(serve: Any, connect: Connect) -> None:
    async with serve(zmq_port=0) as client, connect(client.app) as robot:
        models = (await client.get("/models")).json()["models"]
        assert await robot.call("ping") == {"status": "ok", "message": "Server is running"}
        assert await robot.exchange(encode({"endpoint": "reset", "data": {"options": {"seed": 1}}})) == {}
        config = await robot.exchange(encode({"endpoint": "get_modality_config"}))
        other = await robot.call("get_modality_config", {"model": "smal"})
    modality = {"__ModalityConfig_class__": True}
    assert config["state"] == {**modality, "as_json": {"delta_indices": [0], "modality_keys": ["state"]}}
    assert config["action"] == {**modality, "as_json": {"delta_indices": [0], "modality_keys": ["action"]}}
    assert config["policy"] == models[0]
    assert other["error"] == "unknown_model: model: 'smal' is not served here; did you mean 'small'?"


def bad_messages(row: list[float]) -> dict[str, tuple[list[bytes], str]]:
    """By what is wrong: the frames, and how the error begins."""

    def act(observation: Any, **more: Any) -> list[bytes]:
        return [encode({"endpoint": "get_action", "data": {"observation": observation, **more}})]

    def array(as_npy: Any) -> list[bytes]:
        return act({"__ndarray_class__": True, "as_npy": as_npy})

    good = encode(np.array([row], np.float32))
    npy = msgpack.unpackb(good)["as_npy"]
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], object), allow_pickle=True)
    huge = npy.replace(b"(1, 6), }" + b" " * 12, b"(99999999, 9999999),}")
    invalid, observation = "invalid_request: ", "invalid_request: observation: expected "
    return {
        "not msgpack": ([b"\xc1"], invalid + "the body is not msgpack"),
        "empty": ([b""], invalid + "the body is empty"),
        "a list": ([encode([1])], invalid + "expected an object with at least 'endpoint', found a value of type list"),
        "two frames": ([b"a", b"b"], invalid + "expected a message of one frame, found 2"),
        "unknown member": ([encode({"endpoint": "ping", "token": "k"})], invalid + "'token': there are endpoint, data"),
        "endpoint of a wrong type": ([encode({"endpoint": 5})], invalid + "endpoint: expected a string; found 5"),
        "kill": ([encode({"endpoint": "kill"})], "not_found: endpoint: 'kill' is not served; there are get_action, "),
        "data of a wrong type": ([encode({"data": [1]})], invalid + "data: expected a map; found [1]"),
        "nothing": ([encode({})], invalid + "observation: it is missing"),
        "as the first GR00T sent it": (
            [encode({"data": {"state.x": row}})],
            invalid + "data: expected observation and",
        ),
        "options of a wrong type": (act(row, options=[1]), invalid + "options: expected a map; found [1]"),
        "an observation in options": (act(row, options={"observation": row}), invalid + "options: expected fields of"),
        "unknown option": (act(row, options={"horizon": 8}), invalid + "'horizon' is not a field"),
        "option of a wrong type": (act(row, options={"num_steps": "4"}), invalid + "num_steps: "),
        "too much": (act(row, options={"num_candidates": 10**6}), "budget_too_large: "),
        "wrong obs_dim": (act({"state": np.zeros((1, 1, 5), np.float32)}), observation + "6 numbers a row"),
        "a history": (
            act({"state": np.zeros((1, 2, 6), np.float32)}),
            invalid + "observation/state: expected a time axis of 1",
        ),
        "images": (act({"state": row, "video": {"front": row}}), observation + "state, state.NAME or observation"),
        "flat images": (act({"state": row, "video.front": row}), observation + "state, state.NAME or observation"),
        "text": (act({"state": row, "annotation.human.task_description": ["go"]}), observation + "state, state.NAME"),
        "a state twice": (act({"state": {"x": row}, "state.x": row}), invalid + "'observation/x' is there twice"),
        "two observations": (
            act({"state": {"x": row}, "observation": row}),
            invalid + "'observation' and 'observation/x' both hold",
        ),
        "not finite": (
            act({"state": np.array([[*row[:5], np.nan]], np.float32)}),
            invalid + "observation/state: expected finite",
        ),
        "no bytes": (array("text"), observation + "as_npy as the bytes of a .npy file"),
        "no .npy": (array(b"\x93NUMPZ" + npy[6:]), observation + "the bytes of a .npy file of version 1.0 or 2.0"),
        "version 3": (array(npy[:6] + b"\x03\x00" + npy[8:]), observation + "the bytes of a .npy file of version"),
        "cut in its header": (array(npy[:60]), invalid + "observation: the .npy file ends inside its header"),
        "damaged header": (array(npy.replace(b"'shape'", b"'shame'")), invalid + "observation: the .npy file's header"),
        "cut in its numbers": (array(npy[:-1]), observation + "24 bytes for <f4 [1, 6]; found 23"),
        "a shape beyond memory": (array(huge), observation + "3999999560000004 bytes for <f4 [99999999, 9999999]"),
        "a pickle": (array(pickled.getvalue()), observation + "a dtype of real numbers such as '<f4'; found '|O'"),
        "text in an array": (act(np.array(["a"])), observation + "a dtype of real numbers"),
        "complex numbers": (act(np.zeros(6, np.complex64)), observation + "a dtype of real numbers"),
        "fields in an array": (act(np.zeros(6, [("x", "<f4")])), observation + "a dtype of real numbers"),
    }


async def test_bad_messages_are_answered_and_nothing_breaks(serve: Any, connect: Connect, observations: Rows) -> None:
    row = observations(1)[0]
    async with serve(zmq_port=0) as client, connect(client.app) as robot:
        for kind, (frames, expected) in bad_messages(row).items():
            reply = await robot.exchange(*frames)
            assert reply["error"].startswith(expected), (kind, reply)
            assert reply["error"] == f"{reply['code']}: {reply['detail']}"
        action, _ = await robot.act({"state": row})
        assert action["action"].shape == (1, 1, 3)
        refused = await metric(client, "sorl_requests_total", protocol="groot", outcome="budget_too_large", code="422")
    assert refused == 1


async def test_the_request_id_is_echoed_by_errors_too(serve: Any, connect: Connect, observations: Rows) -> None:
    row = observations(1)[0]
    async with serve(zmq_port=0) as client, connect(client.app) as robot:
        _, info = await robot.act(row, request_id="r-1")
        refused = await robot.act(row[:5], request_id="r-2")
        malformed = await robot.act(row, request_id="r 3")
    assert (info["request_id"], refused["request_id"]) == ("r-1", "r-2")
    assert malformed["error"].startswith("invalid_request: request_id: expected")


async def test_every_endpoint_wants_the_key(serve: Any, connect: Connect, observations: Rows) -> None:
    row = observations(1)[0]
    async with serve(zmq_port=0, api_key="sesame") as client, connect(client.app) as robot:
        for endpoint in groot.ENDPOINTS:
            for members in ({}, {"api_token": None}, {"api_token": ""}, {"api_token": "open"}):
                reply = await robot.call(endpoint, {"observation": row}, **members)
                assert reply["error"].startswith("unauthorized: ")
            reply = await robot.call(endpoint, {"observation": row}, api_token="sesame")
            assert "error" not in reply
        assert (await robot.exchange(b"\xc1"))["code"] == "unauthorized"


async def test_clients_are_served_at_once(serve: Any, connect: Connect, gated: Any, observations: Rows) -> None:
    """The second one's request is computed while the first one waits for an answer that never comes."""
    make_backend, made = gated
    row = observations(1)[0]
    async with (
        serve(make_backend, zmq_port=0) as client,
        connect(client.app) as first,
        connect(client.app) as second,
    ):
        made[0].shut()
        asked = asyncio.ensure_future(first.act(row, seed=1))
        await asyncio.to_thread(made[0].entered.acquire, timeout=WAIT)
        assert (await second.call("ping"))["status"] == "ok"
        also = asyncio.ensure_future(second.act(row, seed=1))
        await until(lambda: client.app.state.runtime.scheduler.queued)
        assert not asked.done()
        made[0].gate.set()
        (one, _), (other, _) = await asked, await also
    np.testing.assert_allclose(one["action"], other["action"], atol=1e-6)


async def test_a_dealer_may_have_many_requests_under_way(serve: Any, connect: Connect, observations: Rows) -> None:
    rows = observations(20)
    async with serve(zmq_port=0) as client, connect(client.app, zmq.DEALER) as robot:
        for number, row in enumerate(rows):
            message = encode({"data": {"observation": row, "options": {"request_id": str(number)}}})
            await robot.socket.send_multipart([message] if number % 2 else [b"", message])
        replies = [await robot.socket.recv_multipart() for _ in rows]
    ids = {decode(frames[-1])[1]["request_id"]: len(frames) for frames in replies}
    assert ids == {str(number): 1 if number % 2 else 2 for number in range(20)}


async def test_what_is_too_much_at_once_waits(
    serve: Any, connect: Connect, gated: Any, observations: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router, "MAX_IN_FLIGHT", 2)
    make_backend, made = gated
    message = encode({"data": {"observation": observations(1)[0]}})
    async with serve(make_backend, zmq_port=0) as client, connect(client.app, zmq.DEALER) as robot:
        made[0].shut()
        for _ in range(5):
            await robot.socket.send(message)
        in_flight = client.app.state.runtime.metrics.requests.in_flight._value
        await until(lambda: in_flight.get() == 2)
        made[0].gate.set()
        most = 0
        for _ in range(5):
            assert len(decode(await robot.socket.recv())) == 2
            most = max(most, in_flight.get())
    assert most <= 2


async def test_a_client_that_is_gone_is_no_error(
    serve: Any, connect: Connect, gated: Any, observations: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    make_backend, made = gated
    message = encode({"data": {"observation": observations(1)[0]}})
    async with serve(make_backend, zmq_port=0) as client:
        made[0].shut()
        async with connect(client.app) as gone:
            await gone.socket.send(message)
            await asyncio.to_thread(made[0].entered.acquire, timeout=WAIT)
        made[0].gate.set()
        async with connect(client.app) as robot:
            assert len(await robot.exchange(message)) == 2
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


async def test_long_messages_are_refused_and_endless_ones_end_the_connection(
    serve: Any, connect: Connect, observations: Rows
) -> None:
    row = observations(1)[0]
    async with serve(zmq_port=0, max_body_bytes=1000) as client, connect(client.app) as robot:
        reply = await robot.act({"state": row, "video": {"front": bytes(10_000)}})
        assert reply["error"].startswith("payload_too_large: the message has 10")
        async with connect(client.app, zmq.DEALER) as endless:
            with endless.socket.get_monitor_socket() as monitor:
                await endless.socket.send(bytes(17_000))
                while (await recv_monitor_message(monitor))["event"] != zmq.EVENT_DISCONNECTED:
                    pass
                endless.socket.disable_monitor()
        assert (await robot.call("ping"))["status"] == "ok"


async def test_requests_wait_for_the_warm_up(serve: Any, connect: Connect, gated: Any, observations: Rows) -> None:
    make_backend, made = gated

    def slow(*arguments: Any) -> Any:
        backend = make_backend(*arguments)
        backend.shut()
        return backend

    async with serve(slow, settle=False, zmq_port=0) as client, connect(client.app) as robot:
        asked = asyncio.ensure_future(robot.act(observations(1)[0]))
        await asyncio.to_thread(made[0].entered.acquire, timeout=WAIT)
        assert (await client.get("/readyz")).status_code == 503
        assert not asked.done()
        made[0].gate.set()
        assert len(await asked) == 2


async def test_a_server_that_can_not_serve_says_so(serve: Any, connect: Connect, gated: Any) -> None:
    make_backend, _ = gated

    def broken(*arguments: Any) -> Any:
        backend = make_backend(*arguments)
        backend.spoil = lambda batch, result: 1 / 0
        return backend

    async with serve(broken, zmq_port=0) as client, connect(client.app) as robot:
        reply = await robot.act([0.0] * 6)
        assert reply["error"].startswith("not_ready: not ready: warm-up failed")
        assert reply["retry_after_ms"] == 1000
        assert (await robot.call("ping"))["status"] == "ok"


async def test_a_drain_answers_what_was_accepted(
    make_settings: Any, connect: Connect, gated: Any, observations: Rows
) -> None:
    make_backend, made = gated
    row = observations(1)[0]
    app = create_app(make_settings(zmq_port=0), make_backend)
    lifespan = app.router.lifespan_context(app)
    await lifespan.__aenter__()
    await app.state.runtime.lifecycle.settled()
    async with connect(app) as robot, connect(app) as late:
        made[0].shut()
        asked = asyncio.ensure_future(robot.act(row))
        await asyncio.to_thread(made[0].entered.acquire, timeout=WAIT)
        ending = asyncio.ensure_future(lifespan.__aexit__(None, None, None))
        await until(lambda: app.state.runtime.scheduler._closed)
        assert (await late.act(row))["error"] == "not_ready: the server is draining"
        assert not asked.done()
        made[0].gate.set()
        assert len(await asked) == 2
        await ending


async def test_a_fault_of_the_server_is_no_traceback_for_the_client(
    serve: Any, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(zmq_port=0) as client, connect(client.app) as robot:
        monkeypatch.setattr(client.app.state.runtime.catalog, "describe", lambda name: 1 / 0)
        reply = await robot.call("get_modality_config")
    assert reply["error"] == "internal_error: the server failed; its log has the traceback"
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]


async def test_answers_are_counted_recorded_and_replayed(
    serve: Any, connect: Connect, observations: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serve(zmq_port=0, record_dir=tmp_path) as client, connect(client.app) as robot:
        for row in observations(3):
            action, _ = await robot.act({"state": row}, num_candidates=4)
        answered = await metric(client, "sorl_requests_total", protocol="groot", outcome="ok", code="200")
        over_http = await metric(client, "sorl_requests_total", protocol="http", outcome="ok", code="200")
    assert (answered, over_http) == (3, 0)
    (recording,) = tmp_path.iterdir()
    assert len(recording.read_text().splitlines()) == 4
    last = json.loads(recording.read_text().splitlines()[-1])
    np.testing.assert_array_equal(decode_array(last["action"], "action"), action["action"][:, 0])
    assert replay([str(recording), "--tolerance", "0"]) == 0
    assert "3 equal to the bit" in capsys.readouterr().out


def test_a_port_that_is_taken_is_one_line(make_settings: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(OSError, match=rf"can't listen on tcp://127\.0\.0\.1:{port}: Address already in use"):
            create_app(make_settings(zmq_port=port))


def test_without_pyzmq_the_setting_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("service.settings.find_spec", lambda name: None)
    assert main(["--zmq-port", "0"]) == 2
    assert "pip install 'sorl-serve[zmq]'; found '0'" in (error := capsys.readouterr().err)
    assert error.count("\n") == 1


async def test_sigterm_answers_what_was_accepted_and_ends_the_server(
    make_settings: Any, connect: Connect, gated: Any, observations: Rows
) -> None:
    make_backend, made = gated
    row = observations(1)[0]
    settings = make_settings(zmq_port=0, drain_grace_seconds=0)
    async with running(settings, make_backend) as (server, _, _), connect(server.config.app) as robot:
        made[0].shut()
        asked = asyncio.ensure_future(robot.act(row))
        await asyncio.to_thread(made[0].entered.acquire, timeout=WAIT)
        signal.raise_signal(signal.SIGTERM)
        await until(lambda: server._runtime.scheduler._closed)
        made[0].gate.set()
        assert len(await asked) == 2


@pytest.mark.slow
def test_a_taken_port_of_http_ends_the_process(checkpoint: Path) -> None:
    """With a socket of ZeroMQ already bound, whose context would wait for it."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        arguments = ["--model", str(checkpoint), "--zmq-port", "0", "--port", str(busy.getsockname()[1])]
        done = subprocess.run(
            [sys.executable, "-m", "service.cli", *arguments], capture_output=True, text=True, timeout=WAIT
        )
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if "error" in line] == done.stderr.splitlines()[-1:]
