"""The Open Inference Protocol's addresses, in process: what /act answers, errors of its form, and one road for both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from policy import ObservationKey
from service.recording.replay import main as replay
from tests.service.waiting import until

pytestmark = pytest.mark.anyio

Rows = Callable[[int], list[list[float]]]
INFER = "/v2/models/small/infer"
LENGTH = "inference-header-content-length"


def body(rows: Any, **members: Any) -> dict[str, Any]:
    array = np.array(rows)
    tensor = {"name": "observation", "shape": list(array.shape), "datatype": "FP32", "data": array.ravel().tolist()}
    return {"inputs": [tensor], **members}


async def infer(client: httpx.AsyncClient, rows: Any, **members: Any) -> dict[str, Any]:
    response = await client.post(INFER, json=body(rows, **members))
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    assert response.headers["x-request-id"] == reply["parameters"]["request_id"]
    return reply


def data(reply: dict[str, Any]) -> dict[str, Any]:
    return {output["name"]: output["data"] for output in reply["outputs"]}


async def count(client: httpx.AsyncClient, **labels: str) -> float:
    text = (await client.get("/metrics")).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(
        sample.value
        for sample in samples
        if sample.name == "sorl_requests_total" and labels.items() <= sample.labels.items()
    )


async def test_it_answers_what_act_answers(serve: Any, observations: Rows) -> None:
    rows = observations(2)
    fields = {"num_candidates": 5, "num_steps": 3, "seed": 9, "temperature": 0.5}
    async with serve() as client:
        expected = (await client.post("/act", json={"observation": rows, **fields})).json()
        reply = await infer(client, rows, parameters=fields, id="robot-7")
        assert (reply["id"], reply["parameters"]["request_id"]) == ("robot-7", "robot-7")
        assert (reply["model_name"], reply["model_version"]) == ("small", expected["model_version"])
        assert data(reply) == {
            "action": [*expected["action"][0], *expected["action"][1]],
            "num_candidates": [5, 5],
            "num_steps": [3, 3],
            "seed": [9, 10],
            **{name: expected[name] for name in ("q", "q_std", "observation_z_max")},
        }
        assert reply["parameters"]["engine"] == expected["engine"]
        assert reply["parameters"]["degraded"] is False
        assert 0 < reply["parameters"]["compute_ms"] <= reply["parameters"]["total_ms"]
        assert await count(client, protocol="open-inference", outcome="ok", code="200") == 1
        assert await count(client, protocol="http", outcome="ok", code="200") == 1


async def test_bytes_in_and_out(serve: Any, observations: Rows) -> None:
    rows = observations(3)
    raw = np.array(rows, "<f4").tobytes()
    tensor = {"name": "observation", "shape": [3, 6], "datatype": "FP32", "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"seed": 5, "binary_data_output": True}}).encode()
    async with serve() as client:
        expected = data(await infer(client, rows, parameters={"seed": 5}))
        response = await client.post(INFER, content=head + raw, headers={LENGTH: str(len(head))})
        assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers[LENGTH])
    start = length
    for output in json.loads(response.content[:length])["outputs"]:
        stop = start + output["parameters"]["binary_data_size"]
        dtype = {"FP32": "<f4", "INT32": "<i4", "UINT64": "<u8"}[output["datatype"]]
        values = np.frombuffer(response.content[start:stop], dtype).reshape(output["shape"])
        assert values.ravel().tolist() == expected.pop(output["name"])
        start = stop
    assert start == len(response.content)
    assert expected == {}


async def test_one_observation_and_the_outputs_asked_for(serve: Any, observations: Rows) -> None:
    (row,) = observations(1)
    async with serve() as client:
        outputs = [{"name": name} for name in ("candidates", "action", "candidate_q", "q")]
        reply = await infer(client, row, outputs=outputs, parameters={"num_candidates": 4})
        shapes = {output["name"]: output["shape"] for output in reply["outputs"]}
        assert shapes == {"candidates": [4, 3], "action": [3], "candidate_q": [4], "q": [1]}
        values = data(reply)
        best = int(np.argmax(values["candidate_q"]))
        assert values["candidates"][3 * best : 3 * best + 3] == values["action"]


async def test_parts_of_an_observation_are_inputs_of_their_own(serve: Any, write: Any, observations: Rows) -> None:
    rows = np.array(observations(2))
    keys = (ObservationKey("gripper", 2), ObservationKey("joint_pos", 4))
    parts = {"joint_pos": rows[:, 2:], "gripper": rows[:, :2]}
    tensors = [
        {"name": name, "shape": list(part.shape), "datatype": "FP64", "data": part.tolist()}
        for name, part in parts.items()
    ]
    async with serve(model=write("small", seed=1, observation_keys=keys)) as client:
        listed = (await client.get("/v2/models/small")).json()["inputs"]
        assert [(part["name"], part["shape"]) for part in listed] == [("gripper", [-1, 2]), ("joint_pos", [-1, 4])]
        whole = await infer(client, rows, parameters={"seed": 3})
        response = await client.post(INFER, json={"inputs": tensors, "parameters": {"seed": 3}})
        assert data(response.json()) == data(whole)
        response = await client.post(INFER, json={"inputs": tensors[:1]})
        assert response.status_code == 422
        assert response.json()["error"].startswith("invalid_request: observation/gripper: it is missing")


async def test_what_is_known_of_server_and_model(serve: Any, observations: Rows) -> None:
    async with serve() as client:

        async def get(path: str) -> Any:
            response = await client.get(path)
            assert response.status_code == 200, response.text
            return response.json()

        described = (await get("/models"))["models"][0]
        version = described["version"]
        assert (await get("/v2"))["extensions"] == ["binary_tensor_data"]
        assert await get("/v2/health/live") == {"live": True}
        assert await get("/v2/health/ready") == {"ready": True}
        reply = await infer(client, observations(2), outputs=[{"name": "candidates"}, {"name": "candidate_q"}])
        every = [*(await infer(client, observations(2)))["outputs"], *reply["outputs"]]
        for path in ("/v2/models/small", f"/v2/models/small/versions/{version}"):
            assert await get(f"{path}/ready") == {"name": "small", "ready": True}
            metadata, config = await get(path), await get(f"{path}/config")
            assert (metadata["name"], metadata["versions"]) == ("small", [version])
            assert metadata["inputs"] == [{"name": "observation", "datatype": "FP32", "shape": [-1, 6]}]
            assert config["input"] == [{"name": "observation", "data_type": "TYPE_FP32", "dims": [6]}]
            assert len(metadata["outputs"]) == len(config["output"]) == len(every)
            for output, listed, configured in zip(every, metadata["outputs"], config["output"], strict=True):
                assert output["name"] == listed["name"] == configured["name"]
                assert output["datatype"] == listed["datatype"] == configured["data_type"].removeprefix("TYPE_")
                assert listed["shape"] == [-1, *configured["dims"]]
                assert len(output["shape"]) == len(listed["shape"])
                assert all(
                    promised in (-1, size) for promised, size in zip(listed["shape"], output["shape"], strict=True)
                )
            assert config["max_batch_size"] == described["max_batch"]
            budget = json.loads(config["parameters"]["default_budget"]["string_value"])
            assert budget == described["default_budget"]
        index = (await client.post("/v2/repository/index", json={})).json()
        assert index == [{"name": "small", "version": version, "state": "READY", "reason": ""}]


async def test_a_version_can_be_pinned_until_it_is_gone(serve: Any, write: Any, observations: Rows) -> None:
    (row,) = observations(1)
    path = write("small", seed=1)
    async with serve(model=path, admin_key="0123456789abcdef0123456789abcdef") as client:
        before = await infer(client, row, parameters={"seed": 1})
        old = before["model_version"]
        write("small", seed=2)
        headers = {"authorization": "Bearer 0123456789abcdef0123456789abcdef"}
        assert (await client.post("/models/small/reload", headers=headers)).json()["outcome"] == "swapped"
        after = await infer(client, row, parameters={"seed": 1})
        assert after["model_version"] != old
        pinned = await client.post(f"/v2/models/small/versions/{old}/infer", json=body(row, parameters={"seed": 1}))
        assert data(pinned.json()) == data(before)
        for path in ("/v2/models/small", f"/v2/models/small/versions/{old}"):
            assert (await client.get(path)).json()["versions"] == [after["model_version"], old]
        gone = await client.post(f"/v2/models/small/versions/{'0' * 64}/infer", json=body(row))
        assert gone.status_code == 409
        assert (await client.get("/v2/models/small/versions/1/ready")).status_code == 409


@pytest.mark.parametrize(
    ("path", "content", "headers", "status", "error"),
    [
        (INFER, b"{", {}, 422, "invalid_request: the body is not JSON"),
        (INFER, b"", {}, 422, "invalid_request: the body is empty"),
        (INFER, b"{}", {LENGTH: "7"}, 422, "invalid_request: Inference-Header-Content-Length"),
        (INFER, b'{"id": "a b"}', {}, 422, "invalid_request: request_id"),
        (INFER, b"{}", {"x-request-id": "a b"}, 422, "invalid_request: X-Request-ID"),
        (INFER, b"x", {"content-encoding": "gzip"}, 415, "unsupported_media_type: Content-Encoding"),
        (INFER, b" " * 2_000_000, {}, 413, "payload_too_large: "),
        ("/v2/models/other/infer", None, {}, 404, "unknown_model: model: 'other' is not served here"),
        ("/v2/models/small/versions/1/infer", None, {}, 409, "version_gone: model_version"),
        ("/v2/systemsharedmemory/status", b"{}", {}, 404, "not_found: "),
    ],
)  # fmt: skip
async def test_errors_have_the_protocols_form(
    serve: Any, observations: Rows, path: str, content: bytes | None, headers: dict[str, str], status: int, error: str
) -> None:
    async with serve() as client:
        content = json.dumps(body(observations(1)[0])).encode() if content is None else content
        response = await client.post(path, content=content, headers=headers)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert response.json()["error"].startswith(error)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]


async def test_errors_of_what_is_no_inference(serve: Any) -> None:
    async with serve() as client:
        for path in ("/v2/models/other", "/v2/models/other/ready", "/v2/models/other/config"):
            response = await client.get(path)
            assert response.status_code == 404
            assert response.json()["error"].startswith("unknown_model: ")
        response = await client.get(INFER)
        assert (response.status_code, response.headers["allow"]) == (405, "POST")
        assert response.json()["error"].startswith("method_not_allowed: ")
        assert "code" in (await client.get("/v22")).json()


async def test_an_error_carries_the_requests_id(serve: Any, observations: Rows) -> None:
    async with serve() as client:
        response = await client.post(INFER, json=body(observations(1)[0], id="r-1", parameters={"num_steps": 0}))
        assert (response.status_code, response.headers["x-request-id"]) == (422, "r-1")
        assert await count(client, protocol="open-inference", outcome="invalid_request", code="422") == 1


async def test_a_key_is_asked_for(serve: Any, observations: Rows) -> None:
    key = "0123456789abcdef0123456789abcdef"
    async with serve(api_key=key) as client:
        response = await client.post(INFER, json=body(observations(1)[0]))
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
        assert response.json()["error"].startswith("unauthorized: ")
        headers = {"authorization": f"Bearer {key}"}
        assert (await client.post(INFER, json=body(observations(1)[0]), headers=headers)).status_code == 200


async def test_tritons_timeout_is_a_deadline(serve: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated
    (row,) = observations(1)
    async with serve(make_backend) as client:
        made[0].shut()
        first = asyncio.ensure_future(infer(client, row))
        await asyncio.to_thread(made[0].entered.acquire, timeout=30)
        response = await client.post(INFER, json=body(row, parameters={"timeout": 5_000}))
        made[0].gate.set()
        await first
    assert response.status_code == 504
    assert response.json()["error"].startswith("deadline_exceeded: ")
    assert response.json()["error"].endswith("(timeout was 5000, in microseconds)")


async def test_not_ready_while_it_warms_up(serve: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated

    def make(*arguments: object) -> Any:
        backend = make_backend(*arguments)
        backend.shut()
        return backend

    async with serve(make, settle=False) as client:
        response = await client.post(INFER, json=body(observations(1)[0]))
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert response.json() == {"error": "not_ready: not ready: warming up"}
        assert (await client.get("/v2/health/ready")).status_code == 503
        assert (await client.get("/v2/models/small/ready")).status_code == 503
        assert (await client.get("/v2/health/live")).status_code == 200
        assert (await client.post("/v2/repository/index")).json()[0]["state"] == "UNAVAILABLE"
        made[0].gate.set()


async def test_a_drained_server_says_so(serve: Any, observations: Rows) -> None:
    async with serve() as client:
        await infer(client, observations(1)[0])
        await client.app.state.runtime.stop()
        response = await client.post(INFER, json=body(observations(1)[0]))
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert response.json()["error"].startswith("not_ready: ")


async def test_nothing_is_computed_for_a_client_that_hung_up(serve: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated
    (row,) = observations(1)
    async with serve(make_backend) as client:
        app, backend = client.app, made[0]
        backend.shut()
        running = asyncio.ensure_future(infer(client, row))
        await asyncio.to_thread(backend.entered.acquire, timeout=30)
        messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": json.dumps(body(row)).encode(), "more_body": False})
        scope = {
            "type": "http", "method": "POST", "path": INFER, "raw_path": INFER.encode(), "query_string": b"",
            "root_path": "", "headers": [], "http_version": "1.1", "scheme": "http",
        }  # fmt: skip

        async def send(message: Any) -> None:
            pass

        gone = asyncio.ensure_future(app(scope, messages.get, send))
        await until(lambda: app.state.runtime.scheduler.queued)
        messages.put_nowait({"type": "http.disconnect"})
        await gone
        assert app.state.runtime.scheduler.queued == 0
        backend.gate.set()
        await running
        assert await count(client, protocol="open-inference", outcome="client_gone", code="499") == 1
    assert len(backend.batches) == 1


async def test_requests_are_recorded_and_replayed(
    serve: Any, observations: Rows, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serve(record_dir=tmp_path) as client:
        await infer(client, observations(2), id="kept", parameters={"num_candidates": 3})
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text().splitlines()[1])["request_id"] == "kept"
    assert replay([str(file), "--model", str(checkpoint)]) == 0


@pytest.mark.parametrize("how", ["middleware", "mounted"])
async def test_hosts_may_wrap_the_application(serve: Any, observations: Rows, how: str) -> None:
    seen: list[str] = []

    class Watching:
        def __init__(self, app: ASGIApp) -> None:
            self._app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope["path"])
            await self._app(scope, receive, send)

    prefix = "" if how == "middleware" else "/robots"
    async with serve() as client:
        app = client.app
        if how == "middleware":
            app.add_middleware(Watching)
        else:
            app = Watching(Starlette(routes=[Mount("/robots", app)]))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://sorl") as wrapped:
            response = await wrapped.post(prefix + INFER, json=body(observations(1)[0]))
            unknown = await wrapped.get(f"{prefix}/v2/models/other")
    assert seen == [prefix + INFER, f"{prefix}/v2/models/other"]
    assert response.status_code == 200
    assert unknown.json()["error"].startswith("unknown_model: ")


async def test_every_address_is_documented(serve: Any) -> None:
    async with serve() as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    model, version = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
    ours = {path for path in paths if path.startswith("/v2")}
    assert ours == {
        "/v2", "/v2/health/live", "/v2/health/ready", "/v2/repository/index",
        *(f"{prefix}{rest}" for prefix in (model, version) for rest in ("", "/ready", "/config", "/infer")),
    }  # fmt: skip
    for prefix in (model, version):
        assert set(paths[f"{prefix}/infer"]["post"]["requestBody"]["content"]) == {
            "application/json", "application/octet-stream"
        }  # fmt: skip
        assert [part["in"] for part in paths[prefix]["get"]["parameters"]] == ["path"] * prefix.count("{")
        assert {"404", "409", "422", "503"} <= set(paths[f"{prefix}/infer"]["post"]["responses"])


async def test_a_version_is_named_by_the_address_alone(serve: Any) -> None:
    """A query of that name pinned a version once, which no document of the protocol has."""
    async with serve() as client:
        for rest in ("", "/config", "/ready"):
            assert (await client.get(f"/v2/models/small{rest}?version=x")).status_code == 200
            assert (await client.get(f"/v2/models/small/versions/x{rest}")).status_code == 409
