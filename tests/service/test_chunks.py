"""A policy that answers with chunks of h = 4 actions, through every protocol, the recorder and its replay."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest
import torch

from kernels.backend import SampleBatch, SampleResult
from kernels.reference import ReferenceBackend
from policy import load_policy, save_policy
from service.protocol import ActReply, decode_array, encode_array
from service.recording import read_recording
from service.recording.replay import main as replay
from tests.policies import random_policy
from tests.service.grpc.test_endpoint import arrays, calling, request
from tests.service.listening import listening
from tests.service.web.test_openpi import VLLM_OMNI, session, unpack
from tests.service.web.test_openpi import ask as ask_openpi
from tests.service.zeromq.conftest import Connect, connect  # noqa: F401 (a fixture)

pytestmark = pytest.mark.anyio

Rows = Callable[[int], list[list[float]]]
HORIZON, ACTION_DIM = 4, 3
LOW, HIGH = np.array([-2.0, -1.0, 0.0]), np.array([1.0, 1.0, 4.0])
N, M, SEED = 6, 3, 9
FIELDS = {"num_candidates": N, "num_steps": M, "seed": SEED}


@pytest.fixture
def chunked(tmp_path: Path) -> Path:
    """A policy of horizon 4 at 25 Hz, in a file."""
    path = tmp_path / "chunked.safetensors"
    limits = {"action_low": tuple(LOW.tolist()), "action_high": tuple(HIGH.tolist())}
    policy = random_policy(3, name="chunked", obs_dim=6, action_horizon=HORIZON, control_hz=25.0, **limits)
    save_policy(policy, path)
    return path


def in_units(actions: Any) -> np.ndarray:
    """(..., 12) in [-1, 1] -> (..., 4, 3) in environment units, written out: action by action, each scaled alike."""
    chunks = np.stack([np.asarray(actions)[..., 3 * i : 3 * i + 3] for i in range(HORIZON)], axis=-2)
    return LOW + (chunks + 1) / 2 * (HIGH - LOW)


def truth(path: Path, rows: Any, n: int = N) -> SampleResult:
    """The definition, in float64; row b has the seed SEED + b."""
    backend = ReferenceBackend(load_policy(path), dtype=torch.float64)
    seeds = [SEED + row for row in range(len(rows))]
    batch = SampleBatch.of(np.array(rows, np.float32), n, M, seeds, return_candidates=True)
    return backend.sample_and_score(batch)


def close(found: Any, expected: Any, axes: int) -> None:
    assert np.shape(found) == np.shape(expected)
    assert np.ndim(found) == axes
    np.testing.assert_allclose(found, expected, atol=2e-5)


async def act(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post("/act", json={**FIELDS, **fields})
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    ActReply.model_validate(reply, strict=True)
    return reply


async def test_act_answers_with_chunks(serve: Any, chunked: Path, observations: Rows) -> None:
    rows = observations(2)
    expected = truth(chunked, rows)
    async with serve(model=chunked) as client:
        batch = await act(client, observation=rows, return_candidates=True)
        single = await act(client, observation=rows[0], return_candidates=True)
        (entry,) = (await client.get("/models")).json()["models"]
    assert (entry["action_dim"], entry["action_horizon"], entry["control_hz"]) == (3, 4, 25)
    for reply in (batch, single):
        assert (reply["action_horizon"], reply["control_hz"]) == (4, 25)
    close(batch["action"], in_units(expected.action), 3)
    close(batch["candidates"], in_units(expected.candidates), 4)
    close(batch["q"], expected.q, 1)
    close(single["action"], in_units(expected.action)[0], 2)
    close(single["candidates"], in_units(expected.candidates)[0], 3)
    assert single["action"] == single["candidates"][int(np.argmax(single["candidate_q"]))]


async def test_encoded_arrays_keep_the_axes(serve: Any, chunked: Path, observations: Rows) -> None:
    """Openpi's arrays in msgpack, and json-numpy's in JSON."""
    rows = observations(2)
    expected = in_units(truth(chunked, rows).action)
    async with serve(model=chunked) as client:
        body = msgpack.packb({"observation": rows, **FIELDS})
        packed = await client.post("/act", content=body, headers={"Content-Type": "application/msgpack"})
        reply = msgpack.unpackb(packed.content)
        close(decode_array(reply["action"], "action"), expected, 3)
        assert (reply["action_horizon"], reply["control_hz"]) == (4, 25)
        body = {"observation": encode_array(np.array(rows, np.float32)), **FIELDS}
        encoded = (await client.post("/act", json=body)).json()["action"]
    close(np.frombuffer(base64.b64decode(encoded["__numpy__"]), encoded["dtype"]).reshape(2, 4, 3), expected, 3)


async def test_single_actions_are_answered_as_before(serve: Any, observations: Rows) -> None:
    async with serve() as client:
        reply = (await client.post("/act", json={"observation": observations(1)[0]})).json()
        (entry,) = (await client.get("/models")).json()["models"]
    assert np.shape(reply["action"]) == (3,)
    assert {"action_horizon", "control_hz"}.isdisjoint(reply)
    assert entry["action_horizon"] == 1


async def test_a_request_that_is_computed_in_parts(serve: Any, chunked: Path, observations: Rows) -> None:
    rows = observations(2)
    expected = truth(chunked, rows, n=40)
    async with serve(model=chunked, max_batch_rows=7) as client:
        reply = await act(client, observation=rows, num_candidates=40, return_candidates=True)
    close(reply["action"], in_units(expected.action), 3)
    close(reply["candidates"], in_units(expected.candidates), 4)


async def test_open_inference(serve: Any, chunked: Path, observations: Rows) -> None:
    rows = observations(2)
    expected = truth(chunked, rows)
    tensor = {"name": "observation", "shape": [2, 6], "datatype": "FP32", "data": rows}
    single = {"name": "observation", "shape": [6], "datatype": "FP32", "data": rows[0]}
    outputs = [{"name": "action"}, {"name": "candidates"}]
    async with serve(model=chunked) as client:
        described = (await client.get("/v2/models/chunked")).json()
        config = (await client.get("/v2/models/chunked/config")).json()
        replies = [
            (await client.post("/v2/models/chunked/infer", json=body)).json()
            for body in (
                {"inputs": [tensor], "outputs": outputs, "parameters": FIELDS},
                {"inputs": [single], "outputs": outputs, "parameters": FIELDS},
            )
        ]
    shapes = {output["name"]: output["shape"] for output in described["outputs"]}
    assert (shapes["action"], shapes["candidates"], shapes["q"]) == ([-1, 4, 3], [-1, -1, 4, 3], [-1])
    assert {output["name"]: output["dims"] for output in config["output"]}["action"] == [4, 3]
    assert json.loads(config["parameters"]["action_horizon"]["string_value"]) == 4
    for reply, action, candidates in (
        (replies[0], in_units(expected.action), in_units(expected.candidates)),
        (replies[1], in_units(expected.action)[0], in_units(expected.candidates)[0]),
    ):
        found = {output["name"]: np.reshape(output["data"], output["shape"]) for output in reply["outputs"]}
        close(found["action"], action, action.ndim)
        close(found["candidates"], candidates, candidates.ndim)


async def test_open_inference_over_grpc(serve: Any, chunked: Path, observations: Rows) -> None:
    rows = observations(2)
    async with serve(model=chunked, grpc_port=0) as client, calling(client) as call:
        message = request(rows, FIELDS)
        message.model_name = "chunked"
        reply = await call("ModelInfer", message)
    close(arrays(reply)["action"], in_units(truth(chunked, rows).action), 3)


async def test_openpi_and_vllm_omni(make_settings: Any, chunked: Path, observations: Rows) -> None:
    (row,) = observations(1)
    expected = in_units(truth(chunked, [row]).action)[0]
    async with listening(make_settings(model=chunked)) as server:
        async with session(server.port) as (robot, metadata):
            assert (metadata["action_horizon"], metadata["action_dim"]) == (4, 3)
            reply = unpack(await ask_openpi(robot, observation=row, return_candidates=True, **FIELDS))
            close(reply["actions"], expected, 2)
            assert (reply["action_horizon"], reply["control_hz"]) == (4, 25)
            assert [name for name, value in reply.items() if isinstance(value, np.ndarray)] == ["actions"]
        async with session(server.openpi_port, VLLM_OMNI) as (robot, _):
            close(unpack(await ask_openpi(robot, observation=row, **FIELDS)), expected, 2)


async def test_groot(serve: Any, connect: Connect, chunked: Path, observations: Rows) -> None:  # noqa: F811
    rows = observations(2)
    async with serve(model=chunked, zmq_port=0) as client, connect(client.app) as robot:
        action, info = await robot.act({"state": np.array(rows, np.float32)[:, None]}, **FIELDS)
        config = await robot.call("get_modality_config")
    close(action["action"], in_units(truth(chunked, rows).action), 3)
    assert action["action"].dtype == np.float32
    assert (info["action_horizon"], info["control_hz"]) == (4, 25)
    assert config["action"]["as_json"]["delta_indices"] == [0, 1, 2, 3]
    assert config["state"]["as_json"]["delta_indices"] == [0]


async def test_what_was_recorded_is_replayed(
    serve: Any, chunked: Path, observations: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = observations(2)
    async with serve(model=chunked, record_dir=tmp_path / "recordings") as client:
        await act(client, observation=rows)
        await act(client, observation=rows[0])
    (path,) = (tmp_path / "recordings").iterdir()
    first, second = read_recording(path).records
    close(first.action, in_units(truth(chunked, rows).action), 3)
    assert second.action.shape == (1, 4, 3)
    assert replay([str(path), "--tolerance", "0"]) == 0
    assert "3 equal to the bit" in capsys.readouterr().out

    lines = path.read_text().splitlines()
    record = json.loads(lines[1])
    changed = first.action.copy()
    changed[1, 2, 0] += 0.015  # of the range from -2 to 1: 0.01 of its half
    path.write_text("\n".join([lines[0], json.dumps(record | {"action": encode_array(changed)})]) + "\n")
    assert replay([str(path)]) == 1
    assert "row 1: action off by 0.01 of half its range" in capsys.readouterr().out
    flat = first.action.reshape(2, 12)
    path.write_text("\n".join([lines[0], json.dumps(record | {"action": encode_array(flat)})]) + "\n")
    assert replay([str(path)]) == 2
    assert "does not fit 'chunked'" in capsys.readouterr().err
