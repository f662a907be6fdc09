"""OpenVLA's form of POST /act over HTTP: its replies are those of plain JSON, its errors too."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest

from service.protocol import codec
from service.recording.format import read_recording

pytestmark = pytest.mark.anyio

Rows = Callable[[int], list[list[float]]]
WAIT = 30


def encoded(value: Any) -> dict[str, Any]:
    return codec.encode_array(np.array(value, np.float32))


async def counted(client: httpx.AsyncClient) -> dict[str, float]:
    """Requests by protocol, as the metrics have them."""
    lines = (await client.get("/metrics")).text.splitlines()
    return {
        name: sum(
            float(line.split()[-1]) for line in lines if re.match(rf'sorl_requests_total.*protocol="{name}"', line)
        )
        for name in ("openvla", "http")
    }


def arrays(body: Any) -> Any:
    """What `json_numpy.loads` makes of a reply: independent of `codec`."""

    def hook(value: dict[str, Any]) -> Any:
        if "__numpy__" not in value:
            return value
        return np.frombuffer(base64.b64decode(value["__numpy__"]), value["dtype"]).reshape(value["shape"])

    return json.loads(body, object_hook=hook)


@pytest.mark.parametrize("rows", [1, 2])
async def test_encoded_arrays_are_answered_with_encoded_arrays(serve: Any, observations: Rows, rows: int) -> None:
    seen: Any = observations(rows)
    asked = {"seed": 3, "num_candidates": 4, "return_candidates": True, "request_id": "r-1"}
    async with serve() as client:
        plain = (await client.post("/act", json={"observation": seen, **asked})).json()
        response = await client.post("/act", json={"observation": encoded(seen), **asked})
    assert response.headers["content-type"] == codec.JSON
    assert response.headers["x-request-id"] == "r-1"
    reply = arrays(response.content)
    assert reply.keys() == plain.keys()
    for name in ("action", "q", "q_std", "candidates", "candidate_q"):
        assert reply[name].dtype == np.float32
        assert reply[name].tolist() == plain[name]
    assert reply["seed"] == 3
    assert reply["timing_ms"].keys() == {"queue", "compute", "total"}


async def test_one_observation_has_a_reply_without_rows(serve: Any, observations: Rows) -> None:
    seen = observations(1)[0]
    async with serve() as client:
        one = arrays((await client.post("/act", json={"state": encoded(seen), "seed": 1})).content)
        batch = arrays((await client.post("/act", json={"state": encoded([[seen]]), "seed": 1})).content)
    assert one["action"].shape == (3,)
    assert type(one["q"]) is float
    assert batch["action"].shape == (1, 3)
    np.testing.assert_array_equal(batch["action"][0], one["action"])


async def test_a_request_in_a_text_is_answered_by_a_text(serve: Any, observations: Rows) -> None:
    seen = observations(1)[0]
    async with serve() as client:
        plain = (await client.post("/act", json={"observation": seen, "seed": 2})).json()
        for observation in (encoded(seen), seen):
            text = json.dumps({"observation": observation, "seed": 2, "request_id": "in-text"})
            response = await client.post("/act", json={"encoded": text}, headers={"accept": codec.MSGPACK})
            assert response.headers["content-type"] == codec.JSON
            reply = arrays(response.json())
            assert reply["action"].tolist() == plain["action"]
            assert reply["request_id"] == response.headers["x-request-id"] == "in-text"


@pytest.mark.parametrize("accept", ["application/json", "application/json;q=0.9, text/plain"])
async def test_who_asks_for_plain_json_gets_lists(serve: Any, observations: Rows, accept: str) -> None:
    """As the page does: it has no json-numpy."""
    async with serve() as client:
        body = {"observation": encoded(observations(1)[0])}
        reply = (await client.post("/act", json=body, headers={"accept": accept})).json()
        assert isinstance(reply["action"], list)
        response = await client.post("/act", json=body, headers={"accept": codec.MSGPACK})
        assert msgpack.unpackb(response.content)["action"][b"__ndarray__"] is True


@pytest.mark.parametrize(
    ("change", "status", "code", "field"),
    [
        ({"observation": encoded([1.0, 2.0])}, 422, "invalid_request", "observation"),
        ({"observation": {**encoded([0.0] * 6), "shape": [7]}}, 422, "invalid_request", "observation"),
        ({"observation": encoded([[[0.0] * 6] * 2])}, 422, "invalid_request", "observation"),
        ({"observation": {"arm": encoded([0.0] * 6)}}, 422, "invalid_request", "observation"),
        ({"num_steps": 0}, 422, "invalid_request", "num_steps"),
        ({"num_candidates": 10**6}, 422, "budget_too_large", "num_candidates"),
        ({"unnorm_key": "bridge"}, 422, "invalid_request", "unnorm_key"),
        ({"model": "cube"}, 404, "unknown_model", "model"),
        ({"model_version": "0"}, 409, "version_gone", "model_version"),
    ],
)
async def test_errors_are_problems_with_their_status(
    serve: Any, change: dict[str, Any], status: int, code: str, field: str
) -> None:
    fields = {"observation": encoded([0.0] * 6), **change}
    async with serve() as client:
        for body in (fields, {"encoded": json.dumps(fields)}):
            response = await client.post("/act", json=body)
            assert response.headers["content-type"] == "application/problem+json"
            problem = response.json()
            assert (response.status_code, problem["code"], problem["field"]) == (status, code, field)


async def test_a_key_is_wanted(serve: Any, observations: Rows) -> None:
    body = {"observation": encoded(observations(1)[0])}
    async with serve(api_key="sesame") as client:
        response = await client.post("/act", json=body)
        assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
        response = await client.post("/act", json=body, headers={"authorization": "Bearer sesame"})
        assert response.status_code == 200


async def test_requests_are_counted_and_recorded(serve: Any, observations: Rows, tmp_path: Path) -> None:
    seen = observations(2)
    async with serve(record_dir=tmp_path) as client:
        await client.post("/act", json={"observation": encoded(seen), "request_id": "arrays"})
        text = json.dumps({"observation": encoded(seen), "request_id": "text"})
        await client.post("/act", json={"encoded": text})
        await client.post("/act", json={"encoded": 5})
        await client.post("/act", json={"observation": seen, "request_id": "plain"})
        assert await counted(client) == {"openvla": 3, "http": 1}
    (file,) = tmp_path.iterdir()
    records = read_recording(file).records
    assert [record.request_id for record in records] == ["arrays", "text", "plain"]
    for record in records:
        np.testing.assert_array_equal(record.request.observation, np.array(seen, np.float32))


async def test_who_hangs_up_is_not_computed_for(serve: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated
    body = {"observation": encoded(observations(1)[0])}
    async with serve(make_backend) as client:
        made[0].shut()
        running = asyncio.ensure_future(client.post("/act", json=body))
        assert await asyncio.to_thread(made[0].entered.acquire, timeout=WAIT)
        waiting = asyncio.ensure_future(client.post("/act", json=body))
        scheduler = client.app.state.runtime.scheduler
        while scheduler.queued < 1:
            await asyncio.sleep(0)
        waiting.cancel()
        while scheduler.queued:
            await asyncio.sleep(0)
        made[0].gate.set()
        response: httpx.Response = await running
        assert response.status_code == 200
    assert len(made[0].batches) == 1


async def test_docs_show_every_form(serve: Any) -> None:
    async with serve() as client:
        document = (await client.get("/openapi.json")).json()
    content = document["paths"]["/act"]["post"]["requestBody"]["content"]
    plain, text = content[codec.JSON]["schema"]["anyOf"]
    assert text["properties"].keys() == {"encoded"}
    assert {"observation", "state"} <= plain["properties"].keys()
    assert list(plain["patternProperties"]) == ["^observation[/.].+"]
    assert "anyOf" not in content[codec.MSGPACK]["schema"]


@pytest.mark.parametrize(
    "scalars",
    [
        {"observation": [{b"nd": False, b"type": "<u8", b"data": number.to_bytes(8, "little")} for number in range(6)]},
        {"seed": {b"nd": False, b"type": "<u8", b"data": (4).to_bytes(8, "little")}},
    ],
)
async def test_so_is_a_request_whose_only_numpy_values_are_scalars(serve: Any, scalars: dict[str, Any]) -> None:
    body = msgpack.packb({"observation": list(range(6)), "seed": 4, **scalars})
    async with serve() as client:
        plain = (await client.post("/act", json={"observation": list(range(6)), "seed": 4})).json()
        response = await client.post("/act", content=body, headers={"content-type": codec.MSGPACK})
    action = msgpack.unpackb(response.content)["action"]
    assert np.frombuffer(action[b"data"], np.float32).tolist() == plain["action"]
    assert action[b"nd"] is True


async def test_msgpack_numpy_is_answered_in_its_own_arrays(serve: Any, observations: Rows) -> None:
    """The same rule in msgpack: a reply's arrays are encoded as its request's."""
    seen = np.array(observations(1)[0], np.float32)
    array = {b"nd": True, b"type": "<f4", b"kind": b"", b"shape": [6], b"data": seen.tobytes()}
    async with serve() as client:
        plain = (await client.post("/act", json={"observation": seen.tolist(), "seed": 4})).json()
        body = msgpack.packb({"observation": array, "seed": 4})
        for accept in ("*/*", codec.MSGPACK):
            response = await client.post(
                "/act", content=body, headers={"content-type": codec.MSGPACK, "accept": accept}
            )
            action = msgpack.unpackb(response.content)["action"]
            assert np.frombuffer(action.pop(b"data"), np.float32).tolist() == plain["action"]
            assert action == {b"nd": True, b"type": "<f4", b"kind": b"", b"shape": [3]}
        lists = await client.post(
            "/act", content=body, headers={"content-type": codec.MSGPACK, "accept": "application/json"}
        )
        assert lists.json()["action"] == plain["action"]
        assert await counted(client) == {"openvla": 0, "http": 4}
