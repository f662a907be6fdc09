"""Keys, their roles and limits as clients meet them: through HTTP in process, with counts known beforehand."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.errors import Overloaded
from tests.clock import Clock

pytestmark = pytest.mark.anyio

Rows = Callable[[int], list[list[float]]]

ROBOT, MONITOR, OPERATOR = (
    f"sorl_{name}-0123456789-0123456789-0123456789" for name in ("robot", "monitor", "operator")
)


def line(name: str, secret: str, role: str, **limits: float) -> str:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    fields = "".join(f", {limit} = {value}" for limit, value in limits.items())
    return f'{name} = {{ roles = ["{role}"], sha256 = "{digest}"{fields} }}\n'


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


async def ask(client: httpx.AsyncClient, row: list[float], secret: str = ROBOT, **fields: Any) -> httpx.Response:
    return await client.post("/act", json={"observation": row, **fields}, headers=bearer(secret))


def stop_time(client: httpx.AsyncClient, clock: Clock) -> None:
    """From here on keys get nothing back until `clock` moves, however slow the machine is."""
    access = client.app.state.runtime.access  # type: ignore[attr-defined]
    access._clock = clock
    access._callers.clear()
    access._replace(access._keys)


def of_keys(text: str) -> dict[tuple[str, ...], float]:
    """{(name, labels' values ...): value} of the metrics of keys."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("sorl_key_")
    }


async def test_roles_over_http(serve: Any, observations: Rows) -> None:
    row = observations(1)[0]
    keys = line("robot", ROBOT, "act") + line("monitor", MONITOR, "metrics") + line("operator", OPERATOR, "admin")
    async with serve(keys=keys) as client:
        statuses = {
            secret: (
                (await ask(client, row, secret)).status_code,
                (await client.get("/metrics", headers=bearer(secret))).status_code,
                (await client.post("/models/small/reload", headers=bearer(secret))).status_code,
            )
            for secret in (ROBOT, MONITOR, OPERATOR, "wrong")
        }
        assert statuses == {
            ROBOT: (200, 401, 401),
            MONITOR: (401, 200, 401),
            OPERATOR: (401, 401, 200),
            "wrong": (401, 401, 401),
        }
        for path in ("/healthz", "/readyz", "/models", "/stats", "/"):
            assert (await client.get(path)).status_code == 200, path
        refused = await client.get("/metrics")
    assert (refused.json()["code"], refused.headers["www-authenticate"]) == ("unauthorized", "Bearer")


async def test_metrics_are_open_while_no_key_reads_them(serve: Any) -> None:
    async with serve(keys=line("robot", ROBOT, "act")) as client:
        assert (await client.get("/metrics")).status_code == 200


async def test_too_many_requests_are_429_and_cost_no_compute(serve: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated
    row = observations(1)[0]
    keys = line("robot", ROBOT, "act", requests_per_second=0.001) + line("other", MONITOR, "act")
    async with serve(make_backend, keys=keys) as client:
        made[0].batches.clear()
        assert (await ask(client, row)).status_code == 200
        computed = len(made[0].batches)
        refused = await ask(client, row)
        problem = refused.json()
        assert (refused.status_code, problem["code"], problem["status"]) == (429, "rate_limited", 429)
        assert "requests_per_second" in problem["detail"]
        assert ROBOT not in refused.text
        assert 900_000 < problem["retry_after_ms"] <= 1_000_001
        assert int(refused.headers["retry-after"]) * 1000 >= problem["retry_after_ms"]
        unread = await client.post("/act", content=b"not read", headers=bearer(ROBOT))
        assert unread.status_code == 429
        assert len(made[0].batches) == computed
        assert (await ask(client, row, MONITOR)).status_code == 200
        text = (await client.get("/metrics")).text
    assert of_keys(text) == {
        ("sorl_key_requests_total", "robot", "ok"): 1,
        ("sorl_key_requests_total", "robot", "rate_limited"): 2,
        ("sorl_key_requests_total", "robot", "error"): 0,
        ("sorl_key_requests_total", "other", "ok"): 1,
        ("sorl_key_requests_total", "other", "rate_limited"): 0,
        ("sorl_key_requests_total", "other", "error"): 0,
        ("sorl_key_limited_total", "robot", "requests_per_second"): 2,
        ("sorl_key_limited_total", "robot", "rows_per_second"): 0,
        ("sorl_key_limited_total", "other", "requests_per_second"): 0,
        ("sorl_key_limited_total", "other", "rows_per_second"): 0,
        ("sorl_key_rows_total", "robot"): 8,
        ("sorl_key_rows_total", "other"): 8,
    }
    assert 'sorl_requests_total{code="429",outcome="rate_limited",protocol="http"} 2.0' in text
    assert 'sorl_shed_total{reason="queue_full"} 0.0' in text


async def test_a_key_has_one_budget_for_all_protocols(serve: Any, observations: Rows, clock: Clock) -> None:
    row = observations(1)[0]
    async with serve(keys=line("robot", ROBOT, "act", requests_per_second=1)) as client:
        stop_time(client, clock)
        assert (await ask(client, row)).status_code == 200
        tensor = {"name": "observation", "shape": [1, len(row)], "datatype": "FP32", "data": row}
        refused = await client.post("/v2/models/small/infer", json={"inputs": [tensor]}, headers=bearer(ROBOT))
        samples = of_keys((await client.get("/metrics")).text)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")  # 1.001 s in whole seconds
    assert samples["sorl_key_limited_total", "robot", "requests_per_second"] == 1


async def test_rows_are_observations_times_granted_candidates(
    serve: Any, gated: Any, observations: Rows, clock: Clock
) -> None:
    make_backend, made = gated
    rows = observations(3)
    async with serve(make_backend, keys=line("robot", ROBOT, "act", rows_per_second=100)) as client:
        stop_time(client, clock)
        assert (await ask(client, rows, num_candidates=30)).status_code == 200  # type: ignore[arg-type]
        computed = len(made[0].batches)
        refused = await ask(client, rows, num_candidates=33)  # type: ignore[arg-type]
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert "rows_per_second" in refused.json()["detail"]
        never = await ask(client, rows, num_candidates=34)  # type: ignore[arg-type]
        assert (never.status_code, never.json()["code"], never.json()["field"]) == (
            422, "budget_too_large", "num_candidates"
        )  # fmt: skip
        assert len(made[0].batches) == computed
        clock.now += 0.9
        assert (await ask(client, rows, num_candidates=33)).status_code == 200  # type: ignore[arg-type]
        samples = of_keys((await client.get("/metrics")).text)
    assert samples["sorl_key_rows_total", "robot"] == 90 + 99
    assert samples["sorl_key_limited_total", "robot", "rows_per_second"] == 1
    assert samples["sorl_key_requests_total", "robot", "error"] == 1


async def test_what_the_server_chooses_is_what_the_key_may_spend(serve: Any, observations: Rows, clock: Clock) -> None:
    row = observations(1)[0]
    async with serve(keys=line("robot", ROBOT, "act", rows_per_second=5)) as client:
        stop_time(client, clock)
        for deadline in ({}, {"deadline_ms": 10_000}, {"deadline_ms": 10_000, "on_late": "reject"}):
            reply = await ask(client, row, **deadline)
            assert reply.status_code == 200, reply.text
            assert 1 <= reply.json()["num_candidates"] <= 5  # 8 by default
            clock.now += 1.0


async def test_what_the_queue_refuses_spends_no_rows(
    serve: Any, observations: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*job: object, **options: object) -> None:
        raise Overloaded("full", retry_after_ms=1, reason="queue_full")

    row = observations(1)[0]
    async with serve(keys=line("robot", ROBOT, "act", rows_per_second=100)) as client:
        with monkeypatch.context() as busy:
            busy.setattr(client.app.state.runtime.scheduler, "submit", full)
            assert [(await ask(client, row, num_candidates=100)).status_code for _ in range(3)] == [503] * 3
        assert (await ask(client, row, num_candidates=100)).status_code == 200


async def test_metrics_follow_the_keys_file(serve: Any, observations: Rows, tmp_path: Path) -> None:
    row = observations(1)[0]
    file = tmp_path / "keys.toml"
    file.write_text(line("robot", ROBOT, "act"))
    async with serve(keys_file=file) as client:
        assert (await ask(client, row)).status_code == 200
        file.write_text(line("other", OPERATOR, "act"))
        await client.app.state.runtime.reload_all()  # as SIGHUP
        assert (await ask(client, row)).status_code == 401
        assert (await ask(client, row, OPERATOR)).status_code == 200
        text = (await client.get("/metrics")).text
        assert "sorl_keys_stale 0.0" in text
        file.write_text("nonsense")
        await client.app.state.runtime.reload_all()
        assert "sorl_keys_stale 1.0" in (await client.get("/metrics")).text
        assert (await ask(client, row, OPERATOR)).status_code == 200
    samples = of_keys(text)
    assert {name for _, name, *_ in samples} == {"other"}
    assert samples["sorl_key_requests_total", "other", "ok"] == 1


async def test_no_log_line_has_a_key(serve: Any, observations: Rows, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    row = observations(1)[0]
    async with serve(api_key="sesame-sesame", keys=line("robot", ROBOT, "act", requests_per_second=0.001)) as client:
        for secret in (ROBOT, ROBOT, "sesame-sesame", "wrong-wrong"):
            await ask(client, row, secret)
        await client.post("/models/small/reload", headers=bearer(OPERATOR))
    assert "rate_limited" in caplog.text
    for secret in (ROBOT, OPERATOR, "sesame-sesame", "wrong-wrong", hashlib.sha256(ROBOT.encode()).hexdigest()):
        assert secret not in caplog.text
