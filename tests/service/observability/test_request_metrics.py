"""What requests leave in the metrics, through HTTP in process and against figures that are known beforehand."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from bench.metrics import one_request
from policy.spec import Budget
from service.errors import DeadlineExceeded, InvalidRequest, Overloaded
from service.observability.metrics import Metrics
from service.observability.request_metrics import CONTROL_RATES, Q_BUCKETS, RequestMetrics
from service.observability.timeline import RequestTimeline
from service.protocol.schemas import parse_act
from service.timing import BatchSize, Deadline
from tests.policies import random_policy

pytestmark = pytest.mark.anyio
WAIT = 30

Rows = Callable[[int], list[list[float]]]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scraped(client: httpx.AsyncClient) -> Samples:
    return parsed((await client.get("/metrics")).text)


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def by_label(samples: Samples, name: str, label: str) -> dict[str, float]:
    """{label's value: sum} over all other labels."""
    found: dict[str, float] = {}
    for (sample, labels), number in samples.items():
        if sample == name:
            key = dict(labels)[label]
            found[key] = found.get(key, 0.0) + number
    return found


def rose(samples: Samples, name: str, label: str) -> dict[str, float]:
    return {key: number for key, number in by_label(samples, name, label).items() if number}


def plant(client: httpx.AsyncClient, seconds: float) -> None:
    """From here on a row of one step is predicted to take `seconds`, and nothing else to cost anything."""
    cost = client.app.state.runtime.catalog.find(None).engine.cost  # type: ignore[attr-defined]
    cost.fit(
        (BatchSize(b, n * m, n), n * m * seconds)
        for b, n, m in [(1, 1, 1), (2, 8, 1), (1, 1, 8), (4, 8, 8), (1, 64, 1)]
    )
    cost.relative_error = 0.0


async def test_series_that_can_be_listed_begin_at_zero(serve: Any) -> None:
    async with serve() as client:
        samples = await scraped(client)
    reasons = by_label(samples, "sorl_shed_total", "reason")
    assert set(reasons) == {
        "not_ready", "queue_full", "backlog", "slow", "too_short", "expired_queued", "expired_computing"
    }  # fmt: skip
    assert set(by_label(samples, "sorl_cancelled_total", "reason")) == {"receiving", "queued", "computing"}
    assert set(by_label(samples, "sorl_degraded_total", "reason")) == {"deadline", "load", "frontier"}
    assert set(by_label(samples, "sorl_deadlines_total", "hz")) == {*map(str, CONTROL_RATES), "slower"}
    outcomes = by_label(samples, "sorl_requests_total", "outcome")
    assert outcomes.keys() >= {"ok", "invalid_request", "overloaded", "deadline_exceeded", "nonfinite_output"}
    assert value(samples, "sorl_requests_total", protocol="http", outcome="internal_error", code="500") == 0
    assert value(samples, "sorl_request_by_budget_seconds_count", candidates="8", steps="4") == 0  # the default budget
    assert value(samples, "sorl_reloads_total", model="small", outcome="failed") == 0
    assert not any(samples[key] for key in samples if key[0] in ("sorl_requests_total", "sorl_shed_total"))


async def test_an_answer_is_recorded_by_its_budget(serve: Any, observations: Rows) -> None:
    async with serve() as client:
        for n, m in [(5, 3), (8, 3), (9, 3)]:
            body = {"observation": observations(2), "num_candidates": n, "num_steps": m}
            assert (await client.post("/act", json=body)).status_code == 200
        samples = await scraped(client)
    name = "sorl_request_by_budget_seconds_count"
    assert value(samples, name, candidates="8", steps="3") == 2
    assert value(samples, name, candidates="16", steps="3") == 1
    evaluations = 2 * (5 + 8) * (3 + 2), 2 * 9 * (3 + 2)  # two observations, two critics
    assert value(samples, "sorl_granted_evaluations_total", candidates="8", steps="3") == evaluations[0]
    assert value(samples, "sorl_granted_evaluations_total", candidates="16", steps="3") == evaluations[1]
    assert value(samples, "sorl_requested_evaluations_total") == sum(evaluations)
    assert value(samples, "sorl_request_seconds_count", protocol="http") == 3
    for stage in ("queue", "compute", "serialise"):
        assert value(samples, f"sorl_{stage}_seconds_count") == 3
    parts = sum(value(samples, f"sorl_{stage}_seconds_sum") for stage in ("queue", "compute", "serialise"))
    assert 0 < parts < value(samples, "sorl_request_seconds_sum", protocol="http")


async def test_gain_is_what_one_candidate_would_have_missed(serve: Any, observations: Rows) -> None:
    rows = observations(3)
    async with serve() as client:
        best = (await client.post("/act", json={"observation": rows, "num_candidates": 16, "seed": 5})).json()
        first = (await client.post("/act", json={"observation": rows, "num_candidates": 1, "seed": 5})).json()
        samples = await scraped(client)
    gain = sum(best["q"]) / 3 - sum(first["q"]) / 3
    assert gain > 0
    assert value(samples, "sorl_q_gain_sum", candidates="16", steps="4") == pytest.approx(gain, rel=1e-4)
    assert value(samples, "sorl_q_gain_sum", candidates="1", steps="4") == 0
    for reply in (best, first):
        (bound,) = [limit for limit in Q_BUCKETS if limit >= sum(reply["q"]) / 3][:1]
        inside = [
            n for (name, labels), n in samples.items() if name == "sorl_q_bucket" and dict(labels)["le"] == str(bound)
        ]
        assert inside[0] >= 1
    spread = sum(best["q_std"]) / 3 + sum(first["q_std"]) / 3
    assert value(samples, "sorl_q_std_sum") == pytest.approx(spread, rel=1e-4)


async def test_degraded_requests_ask_more_than_they_get(serve: Any, observations: Rows) -> None:
    async with serve(max_queue_seconds=1e6) as client:
        plant(client, 10.0)
        body = {"observation": observations(1)[0], "num_candidates": 32, "num_steps": 1, "deadline_ms": 170_000}
        assert (await client.post("/act", json=body)).json()["num_candidates"] == 16
        samples = await scraped(client)
    assert value(samples, "sorl_requested_evaluations_total") == 32 * 3
    assert value(samples, "sorl_granted_evaluations_total", candidates="16", steps="1") == 16 * 3
    assert rose(samples, "sorl_degraded_total", "reason") == {"deadline": 1}
    assert rose(samples, "sorl_deadlines_total", "hz") == {"slower": 1}


async def test_what_is_shed_says_why(serve: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated
    row = observations(1)[0]
    async with serve(make_backend, max_queue_seconds=7.0) as client:
        plant(client, 0.1)

        async def ask(**fields: Any) -> str:
            body = {"observation": row, "num_steps": 1, **fields}
            return (await client.post("/act", json=body)).json().get("code", "ok")

        exact = {"num_candidates": 20, "on_late": "reject"}
        assert await ask(**exact, deadline_ms=1000) == "deadline_exceeded"
        made[0].shut()
        running = asyncio.ensure_future(ask(num_candidates=1))
        assert await asyncio.to_thread(made[0].entered.acquire, timeout=WAIT)
        waiting = asyncio.ensure_future(ask(num_candidates=60, priority=0))
        while not client.app.state.runtime.scheduler.queued:
            await asyncio.sleep(0)
        assert await ask(num_candidates=11) == "overloaded"
        assert await ask(**exact, deadline_ms=4000) == "overloaded"
        assert await ask(num_candidates=1, deadline_ms=20) == "deadline_exceeded"
        made[0].gate.set()
        assert await running == await waiting == "ok"
        client.app.state.runtime.lifecycle.state = "failed"
        assert await ask(num_candidates=1) == "not_ready"
        samples = await scraped(client)
    shed = rose(samples, "sorl_shed_total", "reason")
    assert shed == {"too_short": 1, "queue_full": 1, "backlog": 1, "expired_queued": 1, "not_ready": 1}
    assert rose(samples, "sorl_deadlines_total", "hz") == {"slower": 2, "50": 1}
    assert value(samples, "sorl_deadlines_total", hz="50", outcome="missed") == 1


@pytest.mark.parametrize(
    ("deadline_ms", "hz"),
    [(0.1, "100"), (10, "100"), (10.1, "50"), (20, "50"), (33.3, "30"), (34, "30"), (50, "20"), (66.7, "15"),
     (100, "10"), (100.1, "slower"), (3_600_000, "slower")],
)  # fmt: skip
def test_a_deadline_counts_for_the_slowest_rate_that_holds_it(deadline_ms: float, hz: str) -> None:
    metrics = Metrics()
    timeline = RequestTimeline(0.0)
    timeline.request = parse_act({"observation": [0.0], "deadline_ms": deadline_ms}, "application/json")
    timeline.error = DeadlineExceeded("late", reason="expired_queued")
    metrics.requests.record(timeline)
    assert rose(parsed(metrics.text().decode()), "sorl_deadlines_total", "hz") == {hz: 1}


def test_a_fault_of_the_request_is_no_missed_deadline() -> None:
    metrics = Metrics()
    for error, missed in [(InvalidRequest("wrong"), 0), (Overloaded("full", retry_after_ms=1, reason="queue_full"), 1)]:
        timeline = RequestTimeline(0.0)
        timeline.request = parse_act({"observation": [0.0], "deadline_ms": 5.0}, "application/json")
        timeline.error = error
        metrics.requests.record(timeline)
        assert sum(by_label(parsed(metrics.text().decode()), "sorl_deadlines_total", "hz").values()) == missed


def test_budgets_are_few_series_however_many_are_asked_for() -> None:
    registry = CollectorRegistry()
    metrics = RequestMetrics(registry)
    for n in range(1, 4097, 7):
        for m in range(1, 1025, 5):
            metrics.show_budget(Budget(n, m))
    (family,) = [family for family in registry.collect() if family.name == "sorl_granted_evaluations"]
    budgets = {tuple(sample.labels.values()) for sample in family.samples}
    assert all(math.log2(int(n)).is_integer() for n, _ in budgets)
    assert {int(m) for _, m in budgets} == {1, 6, 11, 16, 32, 64, 128, 256, 512, 1024}
    assert len(budgets) <= 13 * 10


@pytest.mark.parametrize(("early", "outcome"), [(1e-6, "met"), (0.0, "met"), (-1e-6, "missed")])
def test_an_answer_is_in_time_until_its_deadline(early: float, outcome: str) -> None:
    metrics = Metrics()
    timeline = one_request(random_policy().spec)  # deadline_ms is 20; when it ends, the server's clock says
    timeline.deadline = Deadline(reply=timeline.ended + early, compute=0.0)
    metrics.requests.record(timeline)
    samples = parsed(metrics.text().decode())
    assert {o: value(samples, "sorl_deadlines_total", hz="50", outcome=o) for o in ("met", "missed")} == {
        "met": float(outcome == "met"),
        "missed": float(outcome == "missed"),
    }
