"""The window of answers behind the page: what is in it, what has left it, and its percentiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.errors import InvalidRequest, Overloaded, ServiceError
from service.observability.stats import FRESH, MAX_ANSWERS, WINDOW, Stats
from service.observability.timeline import RequestTimeline
from service.protocol.schemas import parse_act
from service.sample import SampleRequest
from service.timing import JobTimes
from tests.clock import Clock
from tests.policies import random_policy

SPEC = random_policy(name="maze").spec
ERRORS: dict[str, ServiceError] = {
    "overloaded": Overloaded("full", retry_after_ms=1, reason="queue_full"),
    "invalid_request": InvalidRequest("wrong"),
}


@pytest.fixture
def stats(clock: Clock) -> Stats:
    return Stats(clock)


def answer(
    stats: Stats, total: float = 2.0, granted: tuple[int, int] = (8, 4), degraded: Any = False, **asked: int
) -> None:
    request = parse_act({"observation": [0.0], **asked}, "application/json")
    timeline = RequestTimeline(received=0.0)
    timeline.request, timeline.spec, timeline.error = request, SPEC, None
    timeline.computed = SampleRequest(np.zeros((1, 1), np.float32), *granted, np.zeros(1, np.uint64), degraded=degraded)
    timeline.times = JobTimes(submitted=0.0)
    timeline.times.started, timeline.times.finished = total / 4e3, 3 * total / 4e3
    timeline.ended = total / 1e3
    stats.record(timeline)


def fail(stats: Stats, error: ServiceError) -> None:
    timeline = RequestTimeline(received=0.0)
    timeline.error = error
    stats.record(timeline)


def test_percentiles_are_values_that_occurred_and_as_many_are_below(stats: Stats) -> None:
    totals = np.random.default_rng(0).permutation(np.arange(1.0, 201.0))
    for total in totals:
        answer(stats, total)
    (row,) = stats.summary()["budgets"]
    assert row["total_ms"] == {"p50": 100.0, "p95": 190.0, "p99": 198.0}
    assert row["queue_ms"]["p50"] == 25.0
    assert row["compute_ms"]["p99"] == 99.0
    assert stats.summary()["latency_ms"] == row["total_ms"]


def test_budgets_are_apart_and_in_order(stats: Stats) -> None:
    for granted, total in (((16, 1), 3.0), ((2, 5), 1.0), ((16, 1), 5.0)):
        answer(stats, total, granted)
    rows = stats.summary()["budgets"]
    assert [(row["num_candidates"], row["num_steps"], row["answered"]) for row in rows] == [(2, 5, 1), (16, 1, 2)]
    assert [row["total_ms"]["p99"] for row in rows] == [1.0, 5.0]


def test_what_was_reduced_says_what_was_asked_and_why(stats: Stats) -> None:
    answer(stats, granted=(4, 1), degraded="load", num_candidates=64)
    answer(stats, granted=(4, 1), degraded="load", num_candidates=64)
    answer(stats, granted=(4, 1), degraded="deadline", num_candidates=32, num_steps=4)
    answer(stats, granted=(4, 1), num_candidates=4, num_steps=1)
    summary = stats.summary()
    (row,) = summary["budgets"]
    assert (row["answered"], row["reduced"]) == (4, 3)
    granted = {"num_candidates": 4, "num_steps": 1}
    asked_64, asked_32 = {"num_candidates": 64, "num_steps": None}, {"num_candidates": 32, "num_steps": 4}
    assert summary["reduced"] == [
        {"model": "maze", "asked": asked_64, "granted": granted, "reason": "load", "count": 2},
        {"model": "maze", "asked": asked_32, "granted": granted, "reason": "deadline", "count": 1},
    ]


def test_errors_are_counted_by_code(stats: Stats) -> None:
    for code in ("overloaded", "invalid_request", "overloaded"):
        fail(stats, ERRORS[code])
    assert stats.summary()["failed"] == {"overloaded": 2, "invalid_request": 1}
    assert stats.summary()["answered"] == 0
    assert stats.summary()["latency_ms"] is None


def test_what_is_older_than_the_window_is_gone(stats: Stats, clock: Clock) -> None:
    answer(stats, total=900.0)
    fail(stats, ERRORS["overloaded"])
    clock.now += WINDOW - 1
    answer(stats, total=1.0)
    assert stats.summary()["answered"] == 2
    clock.now += 2
    summary = stats.summary()
    assert (summary["answered"], summary["failed"], summary["window_seconds"]) == (1, {}, WINDOW)
    assert summary["latency_ms"]["p99"] == 1.0


def test_a_young_server_says_how_little_it_has_seen(stats: Stats, clock: Clock) -> None:
    clock.now += 7
    assert stats.summary()["window_seconds"] == 7


def test_a_full_window_goes_back_as_far_as_its_first_answer(stats: Stats, clock: Clock) -> None:
    for _ in range(MAX_ANSWERS + 100):
        clock.now += 0.01
        answer(stats)
    summary = stats.summary()
    assert summary["answered"] == MAX_ANSWERS
    assert summary["window_seconds"] == pytest.approx((MAX_ANSWERS - 1) * 0.01)


def test_sums_are_kept_a_moment_for_all_who_look(stats: Stats, clock: Clock) -> None:
    before = stats.summary()
    answer(stats)
    assert stats.summary() is before
    clock.now += FRESH
    assert stats.summary()["answered"] == 1
