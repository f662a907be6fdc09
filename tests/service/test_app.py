"""The whole service in process: answers, budgets, batching, failures, readiness."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

import service.answering
from kernels.backend import BackendMismatch, DeviceLost, DeviceOutOfMemory, SampleBatch, SampleResult
from kernels.choice import create_backend
from kernels.reference import ReferenceBackend
from policy import Measurement, load_policy, save_policy
from service.protocol import codec
from service.protocol.replies import ActReply, Problem
from service.recording.format import read_recording
from service.timing import BatchSize

pytestmark = pytest.mark.anyio
WAIT = 30

Rows = Callable[[int], list[list[float]]]


async def ask(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post("/act", json=fields)
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    ActReply.model_validate(reply, strict=True)
    assert response.headers["x-request-id"] == reply["request_id"]
    return reply


async def refused(client: httpx.AsyncClient, code: str, **fields: Any) -> dict[str, Any]:
    response = await client.post("/act", json=fields)
    problem: dict[str, Any] = response.json()
    assert problem["code"] == code, problem
    assert response.headers["content-type"] == "application/problem+json"
    Problem.model_validate(problem, strict=True)
    return problem


async def metric(client: httpx.AsyncClient, name: str, **labels: str) -> float:
    text = (await client.get("/metrics")).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
    return 0.0


def yardstick(checkpoint: Path, observation: Any, n: int, m: int, seed: Any, temperature: float = 1.0) -> SampleResult:
    """The definition, in float64, asked without any of the service's code."""
    backend = ReferenceBackend(load_policy(checkpoint), dtype=torch.float64)
    return backend.sample_and_score(SampleBatch.of(np.array(observation, np.float32), n, m, seed, temperature))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 8), (8, 4), (5, 3), (32, 1), (33, 7)])
async def test_answer_is_the_definitions(serve: Any, checkpoint: Path, observations: Rows, n: int, m: int) -> None:
    policy = load_policy(checkpoint)
    rows = observations(3)
    async with serve() as client:
        reply = await ask(client, observation=rows, num_candidates=n, num_steps=m, seed=2**53, temperature=0.7)
        single = await ask(client, observation=rows[1], num_candidates=n, num_steps=m, seed=2**53)
    expected = yardstick(checkpoint, rows, n, m, [2**53, 2**53 + 1, 2**53 + 2], 0.7)
    np.testing.assert_allclose(reply["action"], policy.spec.action_to_environment(expected.action), atol=1e-5)
    np.testing.assert_allclose(reply["q"], expected.q, atol=1e-5)
    np.testing.assert_allclose(reply["q_std"], expected.q_std, atol=1e-5)
    z = (np.array(rows) - policy.observation_mean.numpy()) / policy.observation_std.numpy()
    np.testing.assert_allclose(reply["observation_z_max"], np.abs(z).max(1), rtol=1e-5)
    expected = yardstick(checkpoint, rows[1:2], n, m, 2**53)
    np.testing.assert_allclose(single["action"], policy.spec.action_to_environment(expected.action)[0], atol=1e-5)
    assert isinstance(single["q"], float)


async def test_budget_rule(serve: Any, observations: Rows) -> None:
    row = observations(1)[0]
    async with serve(max_candidates=16, max_returned_candidates=20) as client:
        for given, granted in [
            ({}, (8, 4)),
            ({"num_candidates": 3}, (3, 4)),
            ({"num_steps": 2}, (8, 2)),
            ({"num_candidates": 16, "num_steps": 8, "deadline_ms": 60_000}, (16, 8)),
        ]:
            reply = await ask(client, observation=row, **given)
            assert (reply["num_candidates"], reply["num_steps"], reply["degraded"]) == (*granted, False)
        for given, field in [
            ({"num_candidates": 17}, "num_candidates"),
            ({"num_candidates": 10**400}, "num_candidates"),
            ({"num_steps": 9}, "num_steps"),
        ]:
            assert (await refused(client, "budget_too_large", observation=row, **given))["field"] == field
        problem = await refused(
            client, "budget_too_large", observation=[row] * 3, num_candidates=7, return_candidates=True
        )
        assert problem["field"] == "return_candidates"


async def test_seed_decides_and_is_returned(serve: Any, observations: Rows) -> None:
    row = observations(1)[0]
    async with serve() as client:
        chosen = await ask(client, observation=row)
        assert 0 <= chosen["seed"] < 2**53
        again = await ask(client, observation=row, seed=chosen["seed"])
        assert again["action"] == chosen["action"]
        large = await ask(client, observation=row, seed=str(2**64 - 1))
        assert large["seed"] == str(2**64 - 1)
        both = await ask(client, observation=[row, row], seed=str(2**64 - 1))
        listed = await ask(client, observation=[row, row], seed=[str(2**64 - 1), 0])
        assert both["action"] == listed["action"]
        assert listed["seed"] == [str(2**64 - 1), 0]
        problem = await refused(client, "invalid_request", observation=[row, row], seed=[1, 2, 3])
        assert problem["field"] == "seed"


async def test_temperature_zero_leaves_one_candidate(serve: Any, observations: Rows) -> None:
    async with serve() as client:
        reply = await ask(client, observation=observations(1)[0], temperature=0, return_candidates=True)
    assert all(candidate == reply["action"] for candidate in reply["candidates"])


async def test_a_policys_own_temperature_is_the_default(
    serve: Any, checkpoint: Path, observations: Rows, tmp_path: Path
) -> None:
    policy = load_policy(checkpoint)
    policy.spec = dataclasses.replace(policy.spec, temperature=0.3)
    save_policy(policy, tmp_path / "calm.safetensors")
    row = observations(1)[0]
    async with serve(model=tmp_path / "calm.safetensors") as client:
        (entry,) = (await client.get("/models")).json()["models"]
        assert entry["temperature"] == 0.3
        for given, temperature in ({}, 0.3), ({"temperature": None}, 0.3), ({"temperature": 1}, 1.0):
            reply = await ask(client, observation=row, num_candidates=5, num_steps=3, seed=4, **given)
            expected = policy.spec.action_to_environment(yardstick(checkpoint, [row], 5, 3, 4, temperature).action)
            np.testing.assert_allclose(reply["action"], expected[0], atol=1e-5)


async def test_candidates_contain_the_winner_and_prefix_those_of_more(serve: Any, observations: Rows) -> None:
    rows = observations(2)
    async with serve() as client:
        few = await ask(client, observation=rows, num_candidates=4, seed=1, return_candidates=True)
        many = await ask(client, observation=rows, num_candidates=9, seed=1, return_candidates=True)
        plain = await ask(client, observation=rows, num_candidates=9, seed=1)
    assert np.shape(many["candidates"]) == (2, 9, 3)
    np.testing.assert_allclose(np.array(many["candidates"])[:, :4], few["candidates"], atol=1e-5)
    best = np.argmax(many["candidate_q"], axis=1)
    assert [many["candidates"][row][winner] for row, winner in enumerate(best)] == many["action"]
    np.testing.assert_allclose(plain["action"], many["action"], atol=1e-5)
    assert "candidates" not in plain


async def test_same_answer_alone_and_batched_with_63_others(serve: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated
    rows = observations(64)
    budgets = [(1 + index % 9, 1 + index % 8) for index in range(64)]
    async with serve(make_backend, slice_ms=1000.0) as client:

        async def one(index: int) -> dict[str, Any]:
            n, m = budgets[index]
            return await ask(client, observation=rows[index], num_candidates=n, num_steps=m, seed=index)

        alone = [await one(index) for index in range(64)]
        backend = made[0]
        backend.shut()
        blocker = asyncio.ensure_future(one(0))
        await asyncio.to_thread(backend.entered.acquire, timeout=WAIT)
        together = [asyncio.ensure_future(one(index)) for index in range(64)]
        while client.app.state.runtime.scheduler.queued < 64:
            await asyncio.sleep(0)
        backend.gate.set()
        batched = await asyncio.gather(blocker, *together)
    assert len(backend.batches) == 2
    assert len(backend.batches[1]) == 64
    for one_alone, one_batched in zip(alone, batched[1:], strict=True):
        np.testing.assert_allclose(one_batched["action"], one_alone["action"], atol=1e-5)


async def test_same_bits_after_a_restart(serve: Any, observations: Rows) -> None:
    replies = []
    for _ in range(2):
        async with serve() as client:
            replies.append([await ask(client, observation=row, seed=5) for row in observations(6)])
    for before, after in zip(*replies, strict=True):
        same = ("action", "q", "q_std", "model_version", "engine", "observation_z_max")
        assert [before[name] for name in same] == [after[name] for name in same]


async def test_msgpack_both_ways(serve: Any, observations: Rows) -> None:
    rows = observations(2)
    body = codec.encode({"observation": np.array(rows, np.float32), "seed": 2**64 - 1}, codec.MSGPACK)
    async with serve() as client:
        expected = await ask(client, observation=rows, seed=str(2**64 - 1))
        response = await client.post("/act", content=body, headers={"content-type": codec.MSGPACK})
        assert response.headers["content-type"] == codec.MSGPACK
        reply = msgpack.unpackb(response.content)
        action = codec.decode_array(reply["action"], "action")
        assert action.dtype == np.float32
        assert action.tolist() == expected["action"]
        assert codec.decode_array(reply["q"], "q").tolist() == expected["q"]
        as_json = await client.post(
            "/act", content=body, headers={"content-type": codec.MSGPACK, "accept": "application/json"}
        )
        assert as_json.json()["action"] == expected["action"]


async def test_request_id_from_body_header_or_server(serve: Any, observations: Rows) -> None:
    row = observations(1)[0]
    async with serve() as client:
        header = {"x-request-id": "from-header"}
        body = {"observation": row, "request_id": "from-body"}
        assert (await client.post("/act", json={"observation": row}, headers=header)).json()["request_id"] == (
            "from-header"
        )
        assert (await client.post("/act", json=body, headers=header)).json()["request_id"] == "from-body"
        failed = await client.post("/act", json={**body, "num_steps": -1}, headers=header)
        assert failed.json()["request_id"] == failed.headers["x-request-id"] == "from-body"
        first, second = await ask(client, observation=row), await ask(client, observation=row)
        assert first["request_id"] != second["request_id"]


async def test_model_and_version(serve: Any, observations: Rows) -> None:
    row = observations(1)[0]
    async with serve() as client:
        listed = (await client.get("/models")).json()["models"]
        assert [model["name"] for model in listed] == ["small"]
        assert (await client.get("/models/small")).json() == listed[0]
        assert listed[0]["obs_dim"] == 6
        assert listed[0]["default_budget"] == {"num_candidates": 8, "num_steps": 4}
        reply = await ask(client, observation=row, model="small", model_version=listed[0]["version"])
        assert reply["model_version"] == listed[0]["version"]
        assert "'small'" in (await refused(client, "unknown_model", observation=row, model="smal"))["detail"]
        problem = await refused(client, "version_gone", observation=row, model_version="0" * 64)
        assert (problem["status"], problem["field"]) == (409, "model_version")
        assert (await client.get("/models/big")).json()["code"] == "unknown_model"


async def test_key(serve: Any, observations: Rows) -> None:
    body = {"observation": observations(1)[0]}
    async with serve(api_key="sesame") as client:
        for headers in ({}, {"authorization": "Bearer sesam"}, {"authorization": "Basic sesame"}):
            response = await client.post("/act", json=body, headers=headers)
            assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
            assert response.headers["www-authenticate"] == "Bearer"
        response = await client.post("/act", json=body, headers={"authorization": "Bearer sesame"})
        assert response.status_code == 200
        assert (await client.get("/healthz")).status_code == 200


async def test_deadline_passed_in_the_queue_is_504_without_compute(serve: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated
    row = observations(1)[0]
    async with serve(make_backend) as client:
        backend = made[0]
        backend.shut()
        running = asyncio.ensure_future(ask(client, observation=row))
        await asyncio.to_thread(backend.entered.acquire, timeout=WAIT)
        problem = await refused(client, "deadline_exceeded", observation=row, deadline_ms=5)
        assert problem["status"] == 504
        assert not running.done()
        backend.gate.set()
        await running
    assert len(backend.batches) == 1


async def test_event_loop_is_free_while_the_engine_computes(serve: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated
    async with serve(make_backend) as client:
        backend = made[0]
        backend.shut()
        running = asyncio.ensure_future(ask(client, observation=observations(1)[0]))
        await asyncio.to_thread(backend.entered.acquire, timeout=WAIT)
        for path in ("/healthz", "/readyz", "/metrics", "/models"):
            assert (await client.get(path)).status_code == 200
        assert not running.done()
        backend.gate.set()
        await running


async def occupied(client: httpx.AsyncClient, backend: Any, **fields: Any) -> asyncio.Future[dict[str, Any]]:
    """A request that stays in the engine until the gate opens."""
    backend.shut()
    running = asyncio.ensure_future(ask(client, **fields))
    assert await asyncio.to_thread(backend.entered.acquire, timeout=WAIT)
    return running


async def queued(client: httpx.AsyncClient, count: int) -> None:
    """Wait until so many requests wait."""
    while client.app.state.runtime.scheduler.queued < count:  # type: ignore[attr-defined]
        await asyncio.sleep(0)


def plant(client: httpx.AsyncClient, seconds: float) -> None:
    """From here on a row of one step is predicted to take `seconds`, and nothing else to cost anything."""
    cost = client.app.state.runtime.catalog.find(None).engine.cost  # type: ignore[attr-defined]
    cost.fit(
        (BatchSize(b, n * m, n), n * m * seconds)
        for b, n, m in [(1, 1, 1), (2, 8, 1), (1, 1, 8), (4, 8, 8), (1, 64, 1)]
    )
    cost.relative_error = 0.0


async def test_overload_is_503_with_retry_after(serve: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated
    row = observations(1)[0]
    async with serve(make_backend, max_queue_seconds=7.0) as client:
        plant(client, 0.1)
        running = await occupied(client, made[0], observation=row, num_candidates=1, num_steps=1)
        waiting = asyncio.ensure_future(ask(client, observation=row, num_candidates=60, num_steps=1))
        await queued(client, 1)
        assert await metric(client, "sorl_queue_requests") == 1
        assert await metric(client, "sorl_queue_backlog_seconds") == pytest.approx(6.0)
        response = await client.post("/act", json={"observation": row, "num_candidates": 11, "num_steps": 1})
        assert (response.status_code, response.json()["code"]) == (503, "overloaded")
        assert response.headers["retry-after"] in ("6", "7")  # 6 s are queued, 0.1 s are running
        assert 6000 <= response.json()["retry_after_ms"] <= 6100
        problem = await refused(client, "budget_too_large", observation=row, num_candidates=71, num_steps=1)
        assert problem["field"] == "num_candidates"  # by itself more than the queue ever holds
        made[0].gate.set()
        await asyncio.gather(running, waiting)
        assert await metric(client, "sorl_requests_total", protocol="http", outcome="overloaded", code="503") == 1


async def test_a_deadline_decides_the_budget(serve: Any, gated: Any, observations: Rows) -> None:
    """Predicted 10 s a row-step; default budget (8, 4); nothing measured."""
    make_backend, _ = gated
    row = observations(1)[0]
    async with serve(make_backend, max_queue_seconds=1e6) as client:
        plant(client, 10.0)
        for given, granted, degraded in [
            ({"deadline_ms": 600_000}, (8, 4), False),
            ({"deadline_ms": 90_000}, (8, 1), False),
            ({"deadline_ms": 600_000, "num_candidates": 32, "num_steps": 1}, (32, 1), False),
            ({"deadline_ms": 170_000, "num_candidates": 32, "num_steps": 1}, (16, 1), "deadline"),
            ({"deadline_ms": 9_000, "num_candidates": 32, "num_steps": 8}, (1, 1), "deadline"),
            ({"deadline_ms": 90_000, "num_candidates": 2, "num_steps": 4, "on_late": "reject"}, (2, 4), False),
        ]:
            plant(client, 10.0)  # the fake machine is far faster than planted, and that is learnt
            reply = await ask(client, observation=row, seed=3, **given)
            assert (reply["num_candidates"], reply["num_steps"], reply["degraded"]) == (*granted, degraded), given
            exact = await ask(client, observation=row, seed=3, num_candidates=granted[0], num_steps=granted[1])
            np.testing.assert_allclose(reply["action"], exact["action"], atol=1e-5)
        plant(client, 10.0)
        exact = {"num_candidates": 16, "num_steps": 1, "on_late": "reject", "deadline_ms": 150_000}
        problem = await refused(client, "deadline_exceeded", observation=row, **exact)
        assert problem["status"] == 504
        assert await metric(client, "sorl_degraded_total", reason="deadline") == 2


async def test_load_degrades_or_rejects(serve: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated
    row = observations(1)[0]
    async with serve(make_backend, max_queue_seconds=1e6) as client:
        plant(client, 10.0)
        running = await occupied(client, made[0], observation=row, num_candidates=1, num_steps=1)
        ahead = {"num_candidates": 20, "num_steps": 1, "deadline_ms": 1_000_000}
        waiting = asyncio.ensure_future(ask(client, observation=row, **ahead))
        await queued(client, 1)
        asked = {"num_candidates": 16, "num_steps": 1, "deadline_ms": 300_000}
        problem = await refused(client, "overloaded", observation=row, on_late="reject", **asked)
        assert 200_000 <= problem["retry_after_ms"] <= 210_000
        reduced = asyncio.ensure_future(ask(client, observation=row, **asked))
        urgent = asyncio.ensure_future(ask(client, observation=row, priority=0, **asked))
        await queued(client, 3)
        made[0].gate.set()
        replies = await asyncio.gather(running, waiting, reduced, urgent)
    granted = [(reply["num_candidates"], reply["degraded"]) for reply in replies]
    assert granted[2:] == [(8, "load"), (16, False)]  # 90 s are left behind 10 + 200; the urgent one goes first


async def test_load_reduces_no_further_than_the_least_quality(
    serve: Any, gated: Any, write: Any, observations: Rows
) -> None:
    """(16, 1) measured 0.9, (8, 1) 0.8, and (1, 1) 0.1. Reduced at admission, and again when its batch is made."""
    make_backend, made = gated
    cells = [Measurement(n, 1, success, 0.0, 1.0, 50) for n, success in [(16, 0.9), (8, 0.8), (1, 0.1)]]
    row = observations(1)[0]
    asked = {"observation": row, "deadline_ms": 300_000}
    async with serve(make_backend, model=write("measured", 1, frontier=cells), max_queue_seconds=1e6) as client:
        plant(client, 10.0)
        problem = await refused(client, "invalid_request", **asked, num_candidates=4, min_quality=0.5)
        assert (problem["field"], "at most 0.1111" in problem["detail"]) == ("min_quality", True)
        running = await occupied(client, made[0], observation=row, num_candidates=1, num_steps=1)
        good = asyncio.ensure_future(ask(client, observation=row, deadline_ms=305_000, min_quality=0.85))
        await queued(client, 1)
        best = {**asked, "priority": 4, "min_quality": 0.95}
        only_best = asyncio.ensure_future(refused(client, "deadline_exceeded", **best))
        await queued(client, 2)
        for fields in ({}, {"num_candidates": 8}, {"num_candidates": 32, "num_steps": 4}):
            problem = await refused(client, "overloaded", **asked, **fields, min_quality=0.85)
            assert 320_000 <= problem["retry_after_ms"] <= 330_000  # 10 + 160 + 160 s
        urgent = {"priority": 0, "num_candidates": 15, "num_steps": 1}
        before = asyncio.ensure_future(ask(client, observation=row, **urgent))
        await queued(client, 3)
        made[0].gate.set()
        _, problem, reply, _ = await asyncio.gather(running, only_best, good, before)
    # Behind the urgent one, 150 and 155 s are left.
    assert "nothing was computed" in problem["detail"]
    assert (reply["num_candidates"], reply["num_steps"], reply["degraded"]) == (8, 1, "load")


async def test_reply_and_recording_say_what_was_computed(
    serve: Any, gated: Any, observations: Rows, tmp_path: Path
) -> None:
    """Granted 16 candidates for 300 s; then one of 150 s goes before it."""
    make_backend, made = gated
    row = observations(1)[0]
    async with serve(make_backend, record_dir=tmp_path, max_queue_seconds=1e6) as client:
        plant(client, 10.0)
        running = await occupied(client, made[0], observation=row, num_candidates=1, num_steps=1)
        asked = {"observation": row, "num_candidates": 16, "num_steps": 1, "deadline_ms": 300_000, "seed": 4}
        reduced = asyncio.ensure_future(ask(client, request_id="reduced", **asked))
        await queued(client, 1)
        urgent = asyncio.ensure_future(ask(client, observation=row, priority=0, num_candidates=15, num_steps=1))
        await queued(client, 2)
        made[0].gate.set()
        reply, *_ = await asyncio.gather(reduced, running, urgent)
        assert (reply["num_candidates"], reply["num_steps"], reply["degraded"]) == (8, 1, "load")
        again = await ask(client, observation=row, num_candidates=8, num_steps=1, seed=4)
        np.testing.assert_allclose(reply["action"], again["action"], atol=1e-5)
    (file,) = tmp_path.iterdir()
    (record,) = [record for record in read_recording(file).records if record.request_id == "reduced"]
    assert (record.request.num_candidates, record.request.num_steps) == (8, 1)
    np.testing.assert_array_equal(record.action[0], np.array(reply["action"], np.float32))


async def test_a_large_request_does_not_hold_up_small_ones(serve: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated
    rows = observations(2)
    async with serve(make_backend, slice_ms=100.0, max_queue_seconds=1e6) as client:
        plant(client, 0.001)
        running = await occupied(client, made[0], observation=rows[0], num_candidates=1, num_steps=1)
        large = asyncio.ensure_future(ask(client, observation=rows, num_candidates=400, num_steps=1, seed=1))
        await queued(client, 1)
        small = asyncio.ensure_future(ask(client, observation=rows[0], num_candidates=8, num_steps=1))
        await queued(client, 2)
        made[0].gate.set()
        replies = await asyncio.gather(running, small, large)
        alone = await ask(client, observation=rows, num_candidates=400, num_steps=1, seed=1)
        np.testing.assert_allclose(replies[2]["action"], alone["action"], atol=1e-5)
    second = made[0].batches[1]
    assert sorted(second.num_candidates.tolist()) == [8, 25, 25]  # half a batch of 100 rows


async def test_poison_fails_alone_in_its_batch(serve: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated
    rows = observations(3)

    def poison(batch: SampleBatch, result: SampleResult) -> SampleResult:
        if 666 in batch.seed:
            raise RuntimeError("secret detail of the device")
        return result

    async with serve(make_backend, slice_ms=1000.0) as client:
        made[0].spoil = poison
        running = await occupied(client, made[0], observation=rows[0])
        good = [asyncio.ensure_future(ask(client, observation=row, seed=number)) for number, row in enumerate(rows)]
        bad = asyncio.ensure_future(refused(client, "engine_failed", observation=rows[0], seed=666))
        await queued(client, 4)
        made[0].gate.set()
        replies = await asyncio.gather(running, bad, *good)
        assert "secret" not in str(replies[1])
        assert len(made[0].batches[1]) == 4
        assert await metric(client, "sorl_batch_retries_total") == 1
        again = [await ask(client, observation=row, seed=number) for number, row in enumerate(rows)]
        for one, other in zip(replies[2:], again, strict=True):
            np.testing.assert_allclose(one["action"], other["action"], atol=1e-5)


async def test_a_worker_that_dies_is_replaced(serve: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated
    row = observations(1)[0]

    def die(batch: SampleBatch, result: SampleResult) -> SampleResult:
        raise SystemExit(1)

    async with serve(make_backend) as client:
        made[0].spoil = die
        await refused(client, "engine_failed", observation=row)
        made[0].spoil = None
        await ask(client, observation=row)
        assert await metric(client, "sorl_worker_restarts_total") == 1
        assert (await client.get("/readyz")).status_code == (await client.get("/healthz")).status_code == 200


async def test_a_stuck_engine_fails_everyone_and_ends_readiness(serve: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated
    row = observations(1)[0]
    async with serve(make_backend, stuck_seconds=0.5) as client:
        told = asyncio.Event()
        client.app.state.runtime.on_broken = told.set
        made[0].shut()
        stuck = asyncio.ensure_future(refused(client, "engine_failed", observation=row))
        assert await asyncio.to_thread(made[0].entered.acquire, timeout=WAIT)
        waiting = asyncio.ensure_future(refused(client, "engine_failed", observation=row))
        await queued(client, 1)
        await asyncio.gather(stuck, waiting)
        await asyncio.wait_for(told.wait(), WAIT)
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/healthz")).status_code == 500
        await refused(client, "not_ready", observation=row)
        made[0].gate.set()


async def test_an_engine_that_is_stuck_in_warm_up_is_seen_too(serve: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated

    def make_shut(*arguments: Any) -> Any:
        backend = make_backend(*arguments)
        backend.shut()
        return backend

    async with serve(make_shut, settle=False, stuck_seconds=0.5) as client:
        told = asyncio.Event()
        client.app.state.runtime.on_broken = told.set
        await asyncio.wait_for(told.wait(), WAIT)
        assert (await client.get("/healthz")).status_code == 500
        problem = await refused(client, "not_ready", observation=observations(1)[0])
        assert "stuck_seconds" in problem["detail"]
        made[0].gate.set()


@pytest.mark.parametrize("media_type", [codec.JSON, codec.MSGPACK])
async def test_encoding_counts_in_total_and_in_what_deadlines_must_leave(
    serve: Any, observations: Rows, monkeypatch: pytest.MonkeyPatch, media_type: str
) -> None:
    """A clock that only encoding moves, by 0.2 s."""
    late, encode = 0.0, codec.encode

    def encode_slowly(value: dict[str, Any], *form: Any) -> bytes:
        nonlocal late
        late += 0.2 if "action" in value else 0.0
        return encode(value, *form)

    body = {"observation": observations(1)[0], "num_candidates": 20, "return_candidates": True}
    async with serve() as client:
        await ask(client, **body)
        monotonic = time.monotonic
        monkeypatch.setattr(codec, "encode", encode_slowly)
        monkeypatch.setattr(
            service.answering, "time", SimpleNamespace(monotonic=lambda: monotonic() + late, time=time.time)
        )
        deadlines = client.app.state.runtime.deadlines
        before = deadlines.reply_seconds
        response = await client.post("/act", json=body, headers={"Accept": media_type})
        reply = response.json() if media_type == codec.JSON else msgpack.unpackb(response.content)
        timing = reply["timing_ms"]
        assert timing["total"] >= timing["queue"] + timing["compute"] + 200
        assert deadlines.reply_seconds > before


async def test_a_deadline_in_seconds_is_refused_with_its_unit(serve: Any, observations: Rows) -> None:
    row = observations(1)[0]
    async with serve() as client:
        plant(client, 0.001)
        exact = {"num_candidates": 8, "num_steps": 8, "on_late": "reject"}
        problem = await refused(client, "deadline_exceeded", observation=row, deadline_ms=0.05, **exact)
        assert "deadline_ms was 0.05, in milliseconds" in problem["detail"]


async def test_a_byte_order_mark_before_json_is_accepted(serve: Any, observations: Rows) -> None:
    body = b"\xef\xbb\xbf" + json.dumps({"observation": observations(1)[0]}).encode()
    async with serve() as client:
        response = await client.post("/act", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 200


async def test_another_method_than_post_is_counted(serve: Any) -> None:
    async with serve() as client:
        for method in ("GET", "PUT"):
            assert (await client.request(method, "/act")).status_code == 405
        assert (await client.put("/models")).status_code == 405
        assert (
            await metric(client, "sorl_requests_total", protocol="http", outcome="method_not_allowed", code="405") == 2
        )


@pytest.mark.parametrize(
    "path", ["/", "/models", "/models/small", "/healthz", "/readyz", "/metrics", "/stats", "/docs"]
)
async def test_head_is_get_without_a_body(serve: Any, path: str) -> None:
    async with serve() as client:
        head, get = await client.head(path), await client.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"") == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    async with serve() as client:
        assert (await client.head("/act")).status_code == 405


async def test_models_say_which_limit_binds(serve: Any, observations: Rows) -> None:
    async with serve(max_queue_seconds=5.0, max_candidates=100) as client:
        plant(client, 0.001)  # a second for 1,000 row-steps
        model = (await client.get("/models/small")).json()
        small, large = model["max_batch_by_budget"]
        assert (small["num_candidates"], small["num_steps"], small["max_batch"]) == (8, 4, 64)
        assert (large["num_candidates"], large["num_steps"]) == (100, 8)
        most = large["max_batch"]
        assert 1 <= most < 64
        await refused(client, "budget_too_large", observation=observations(most + 1), num_candidates=100, num_steps=8)


async def test_cost_model_is_exported(serve: Any, observations: Rows) -> None:
    async with serve() as client:
        plant(client, 0.5)
        assert await metric(client, "sorl_cost_coefficient_seconds", model="small", term="actor") == pytest.approx(0.5)
        assert await metric(client, "sorl_cost_factor", model="small") == 1
        await ask(client, observation=observations(1)[0], num_candidates=1, num_steps=1)
        assert await metric(client, "sorl_cost_factor", model="small") == pytest.approx(2**-0.1)  # as far as one goes
        assert await metric(client, "sorl_cost_relative_error", model="small") == pytest.approx(0.1, abs=0.01)
        assert await metric(client, "sorl_reply_reserve_seconds") > 0


async def test_engine_that_raises_fails_its_batch_and_serves_on(
    serve: Any, gated: Any, observations: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    make_backend, made = gated
    row = observations(1)[0]

    def lose_device(batch: SampleBatch, result: SampleResult) -> SampleResult:
        raise RuntimeError("secret detail of the device")

    async with serve(make_backend) as client:
        before = await ask(client, observation=row, seed=1)
        made[0].spoil = lose_device
        problem = await refused(client, "engine_failed", observation=row, seed=1)
        assert problem["status"] == 500
        assert "secret" not in str(problem)
        assert "secret detail" in caplog.text
        made[0].spoil = None
        assert (await ask(client, observation=row, seed=1))["action"] == before["action"]


@pytest.mark.parametrize("failure", [DeviceOutOfMemory, DeviceLost])
async def test_a_device_that_fails_ends_readiness(
    serve: Any, gated: Any, observations: Rows, failure: type[Exception]
) -> None:
    make_backend, made = gated
    row = observations(1)[0]

    def fail(batch: SampleBatch, result: SampleResult) -> SampleResult:
        raise failure("CUDA error: unspecified launch failure")

    async with serve(make_backend) as client:
        await ask(client, observation=row)
        made[0].spoil = fail
        await refused(client, "engine_failed", observation=row)
        made[0].spoil = None
        response = await client.get("/readyz")
        assert (response.status_code, response.json()["code"]) == (503, "not_ready")
        assert "the device failed" in response.json()["detail"]
        await refused(client, "not_ready", observation=row)
        assert await metric(client, "sorl_ready") == 0
        assert (await client.get("/healthz")).status_code == 500  # only a restart mends it


async def test_after_a_device_failed_nothing_it_says_is_an_answer(serve: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated
    row = observations(1)[0]

    def fail_once(batch: SampleBatch, result: SampleResult) -> SampleResult:
        made[0].spoil = None
        raise DeviceLost("CUDA error: unspecified launch failure")

    async with serve(make_backend) as client:
        made[0].shut()
        made[0].spoil = fail_once
        first = asyncio.ensure_future(refused(client, "engine_failed", observation=row))
        assert await asyncio.to_thread(made[0].entered.acquire, timeout=WAIT)
        rest = [asyncio.ensure_future(refused(client, "engine_failed", observation=row)) for _ in range(3)]
        await queued(client, 3)
        made[0].gate.set()
        await asyncio.gather(first, *rest)
    assert len(made[0].batches) == 1


async def test_a_backend_that_finds_itself_wrong_is_never_ready(
    serve: Any, gated: Any, observations: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    make_backend, made = gated

    def make(policy: Any, *choices: Any) -> Any:
        backend = make_backend(policy, *choices)

        def check() -> None:
            raise BackendMismatch("request 3 differs by 0.7")

        backend.check = check
        return backend

    async with serve(make) as client:
        assert (await client.get("/readyz")).status_code == 503
        await refused(client, "not_ready", observation=observations(1)[0])
    assert "request 3 differs" in caplog.text
    assert not made[0].batches


async def test_nonfinite_output_fails_that_request_only(serve: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated
    rows = observations(3)

    def spoil_second(batch: SampleBatch, result: SampleResult) -> SampleResult:
        bad = batch.seed == 2
        return dataclasses.replace(result, action=np.where(bad[:, None], np.nan, result.action), nonfinite=bad)

    async with serve(make_backend, slice_ms=1000.0) as client:
        backend = made[0]
        backend.shut()
        backend.spoil = spoil_second
        first = asyncio.ensure_future(ask(client, observation=rows[0], seed=1))
        await asyncio.to_thread(backend.entered.acquire, timeout=WAIT)
        bad = asyncio.ensure_future(refused(client, "nonfinite_output", observation=rows[1], seed=2))
        good = asyncio.ensure_future(ask(client, observation=rows[2], seed=3))
        while client.app.state.runtime.scheduler.queued < 2:
            await asyncio.sleep(0)
        backend.gate.set()
        await asyncio.gather(first, bad, good)
        assert len(backend.batches[1]) == 2
        assert await metric(client, "sorl_nonfinite_outputs_total") == 1


async def test_not_ready_until_warm(serve: Any, observations: Rows) -> None:
    entered, gate = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def make(policy: Any, *choices: Any) -> Any:
        backend = create_backend(policy, *choices)
        sample = backend.sample_and_score

        def slow(batch: SampleBatch) -> SampleResult:
            loop.call_soon_threadsafe(entered.set)
            assert gate.wait(WAIT)
            return sample(batch)

        backend.sample_and_score = slow  # type: ignore[method-assign]
        return backend

    async with serve(make, settle=False) as client:
        await entered.wait()
        response = await client.get("/readyz")
        assert (response.status_code, response.json()["code"]) == (503, "not_ready")
        assert response.headers["retry-after"] == "1"
        assert (await client.get("/healthz")).status_code == 200
        assert await metric(client, "sorl_ready") == 0
        await refused(client, "not_ready", observation=observations(1)[0])
        gate.set()
        await client.app.state.runtime.lifecycle.settled()
        assert (await client.get("/readyz")).status_code == 200
        assert await metric(client, "sorl_ready") == 1
        client.app.state.runtime.lifecycle.draining = True
        assert (await client.get("/readyz")).json()["detail"] == "not ready: draining"
        await ask(client, observation=observations(1)[0])  # accepted work is still served


@pytest.mark.parametrize("fault", ["raises", "nonfinite"])
async def test_failed_warm_up_stays_not_ready_and_says_so(
    serve: Any, observations: Rows, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    def make(policy: Any, *choices: Any) -> Any:
        backend = create_backend(policy, *choices)
        sample = backend.sample_and_score

        def broken(batch: SampleBatch) -> SampleResult:
            if fault == "raises":
                raise RuntimeError("no kernel image")
            return dataclasses.replace(sample(batch), nonfinite=np.ones(len(batch), bool))

        backend.sample_and_score = broken  # type: ignore[method-assign]
        return backend

    async with serve(make) as client:
        response = await client.get("/readyz")
        assert (response.status_code, response.json()["code"]) == (503, "not_ready")
        await refused(client, "not_ready", observation=observations(1)[0])
        assert (await client.get("/healthz")).status_code == 200
    assert "warm-up failed" in caplog.text


async def test_client_that_hangs_up_is_dropped_before_compute(serve: Any, gated: Any, observations: Rows) -> None:
    """Through the ASGI interface, as a server tells it: http.disconnect while the request waits."""
    make_backend, made = gated
    async with serve(make_backend) as client:
        app, backend = client.app, made[0]
        backend.shut()
        running = asyncio.ensure_future(ask(client, observation=observations(1)[0]))
        await asyncio.to_thread(backend.entered.acquire, timeout=WAIT)
        body = codec.encode({"observation": observations(1)[0]}, codec.JSON)
        messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": body, "more_body": False})
        scope = {
            "type": "http", "method": "POST", "path": "/act", "raw_path": b"/act", "query_string": b"", "root_path": "",
            "headers": [(b"content-type", b"application/json")], "http_version": "1.1", "scheme": "http",
        }  # fmt: skip

        async def send(message: Any) -> None:
            pass

        gone = asyncio.ensure_future(app(scope, messages.get, send))
        while not app.state.runtime.scheduler.queued:
            await asyncio.sleep(0)
        messages.put_nowait({"type": "http.disconnect"})
        await gone
        assert app.state.runtime.scheduler.queued == 0
        backend.gate.set()
        await running
        assert await metric(client, "sorl_requests_total", protocol="http", outcome="client_gone", code="499") == 1
    assert len(backend.batches) == 1


async def test_work_is_counted(serve: Any, observations: Rows) -> None:
    async with serve() as client:
        await ask(client, observation=observations(2), num_candidates=3, num_steps=5)
        assert await metric(client, "sorl_network_evaluations_total", network="actor") == 30
        assert await metric(client, "sorl_network_evaluations_total", network="critic") == 12
        assert await metric(client, "sorl_batch_rows_sum") == 6
        assert await metric(client, "sorl_requests_total", protocol="http", outcome="ok", code="200") == 1
        assert await metric(client, "sorl_request_seconds_count", protocol="http") == 1
        for name in ("queue", "compute"):
            assert await metric(client, f"sorl_{name}_seconds_count") == 1


async def test_large_request_is_computed_in_slices(
    serve: Any, gated: Any, checkpoint: Path, observations: Rows
) -> None:
    make_backend, made = gated
    rows = observations(10)
    async with serve(make_backend, max_batch_rows=20, slice_ms=1000.0) as client:
        made[0].shut()
        made[0].gate.set()
        reply = await ask(client, observation=rows, num_candidates=7, seed=3, return_candidates=True)
    assert [int(batch.num_candidates.sum()) for batch in made[0].batches] == [20, 20, 20, 10]
    expected = load_policy(checkpoint).spec.action_to_environment(
        yardstick(checkpoint, rows, 7, 4, list(range(3, 13))).action
    )
    np.testing.assert_allclose(reply["action"], expected, atol=1e-5)
    assert np.shape(reply["candidates"]) == (10, 7, 3)


@pytest.mark.parametrize("how", ["middleware", "mounted"])
async def test_hosts_may_wrap_the_application(serve: Any, observations: Rows, how: str) -> None:
    """Its short cut for /act passes nobody by who asked to see requests, and answers the same."""
    seen: list[str] = []

    class Watching:
        def __init__(self, app: ASGIApp) -> None:
            self._app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope["path"])
            await self._app(scope, receive, send)

    body = {"observation": observations(1)[0], "seed": 5, "num_candidates": 4, "num_steps": 2}
    async with serve() as client:
        plain = await ask(client, **body)
    async with serve() as client:
        app = client.app
        if how == "middleware":
            app.add_middleware(Watching)
        else:
            app = Watching(Starlette(routes=[Mount("/robots", app)]))
        prefix = "" if how == "middleware" else "/robots"
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://sorl") as wrapped:
            response = await wrapped.post(f"{prefix}/act", json=body)
            failed = await wrapped.post(f"{prefix}/act", json={"seed": 5})
    assert seen == [f"{prefix}/act"] * 2
    assert response.status_code == 200
    for name in ("action", "q", "q_std", "seed", "num_candidates"):
        assert response.json()[name] == plain[name]
    assert response.headers["x-request-id"] == response.json()["request_id"]
    assert failed.status_code == 422
    assert failed.json()["field"] == "observation"
    assert failed.headers["content-type"] == "application/problem+json"


async def test_a_fault_of_the_server_is_answered_and_logged(
    serve: Any, observations: Rows, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve() as client:
        monkeypatch.setattr(client.app.state.runtime.catalog, "find", lambda *arguments: 1 / 0)
        problem = await refused(client, "internal_error", observation=observations(1)[0], request_id="bad-1")
        assert await metric(client, "sorl_requests_total", protocol="http", outcome="internal_error", code="500") == 1
        assert await metric(client, "sorl_requests_in_flight") == 0
    assert problem["request_id"] == "bad-1"
    [record] = [record for record in caplog.records if record.exc_info]
    assert "request bad-1 failed" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_seeds_and_ids_that_the_server_chooses_differ(serve: Any, observations: Rows) -> None:
    async with serve() as client:
        replies = [await ask(client, observation=observations(1)[0]) for _ in range(50)]
    assert len({reply["seed"] for reply in replies}) == 50
    assert len({reply["request_id"] for reply in replies}) == 50
    assert all(0 <= reply["seed"] <= 2**53 for reply in replies)


async def test_documented_in_openapi(serve: Any) -> None:
    async with serve() as client:
        document = (await client.get("/openapi.json")).json()
        assert (await client.get("/docs")).status_code == 200
    act = document["paths"]["/act"]["post"]
    assert set(act["requestBody"]["content"]) == {codec.JSON, codec.MSGPACK}
    assert "num_candidates" in act["requestBody"]["content"][codec.MSGPACK]["schema"]["properties"]
    assert {"200", "401", "404", "409", "413", "415", "422", "500", "503", "504"} <= set(act["responses"])
    assert "observation_z_max" in document["components"]["schemas"]["ActReply"]["properties"]
    assert not {"ValidationError", "HTTPValidationError"} & set(document["components"]["schemas"])  # FastAPI's own
