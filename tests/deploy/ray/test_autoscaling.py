"""`LoadMeter`: a replica's reported load. `LoadPolicy`: the replica count for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge, Histogram

from deploy.ray.autoscaling import LoadMeter, LoadPolicy
from policy.flops import Flops
from service.observability.metrics import Metrics
from service.timing import BatchSize
from tests.clock import Clock


def decide(told: dict[str, dict[str, float]] | None, **targets: float) -> float:
    policy = LoadPolicy(**{"target_backlog_seconds": 0.02, "target_busy": 0.7} | targets)
    context: Any = SimpleNamespace(aggregated_metrics=told, target_num_replicas=3)
    wanted, state = policy(context)
    assert state == {}
    return wanted


def test_a_replica_reports_its_backlog_and_busy_share(clock: Clock) -> None:
    registry = CollectorRegistry()
    backlog = Gauge("sorl_queue_backlog_seconds", "", registry=registry)
    compute = Histogram("sorl_batch_seconds", "", registry=registry)
    compute.observe(7.0)  # before the meter existed
    meter = LoadMeter(registry, clock)
    compute.observe(1.5)
    compute.observe(0.5)
    backlog.set(0.25)
    clock.now += 4.0
    assert meter.read() == {"backlog_seconds": 0.25, "busy": 0.5}
    backlog.set(0.0)
    clock.now += 1.0
    assert meter.read() == {"backlog_seconds": 0.0, "busy": 0.0}
    assert meter.read() == {"backlog_seconds": 0.0, "busy": 0.0}  # no time has passed
    compute.observe(3.0)  # begun before the last reading
    clock.now += 2.0
    assert meter.read()["busy"] == 1.0


def test_the_server_exports_what_the_meter_reads(clock: Clock) -> None:
    metrics = Metrics()
    meter = LoadMeter(metrics.registry, clock)
    metrics.count_batch(BatchSize(1, 4, 4), requests=1, nonfinite=0, members=1, flops=Flops(1, 1, 1, 1), seconds=0.3)
    clock.now += 1.0
    assert meter.read() == {"backlog_seconds": 0.0, "busy": pytest.approx(0.3)}


def test_an_application_without_these_metrics_is_an_error(clock: Clock) -> None:
    with pytest.raises(LookupError, match="exports no sorl_batch_seconds_sum"):
        LoadMeter(CollectorRegistry(), clock)


@pytest.mark.parametrize(
    ("backlog", "busy", "wanted"),
    [
        ([0.02, 0.02], [0.7, 0.7], 2.0),  # both at their targets: the same number
        ([0.08, 0.0], [0.9, 0.3], 4.0),  # 80 ms of backlog, 20 ms per replica
        ([0.0, 0.0], [0.7, 0.7], 2.0),  # no backlog, but one replica would be too busy
        ([0.0, 0.0], [0.1, 0.04], 0.2),  # Ray keeps min_replicas
    ],
)
def test_the_larger_replica_count_wins(backlog: list[float], busy: list[float], wanted: float) -> None:
    told = {"backlog_seconds": dict(zip("ab", backlog, strict=True)), "busy": dict(zip("ab", busy, strict=True))}
    assert decide(told) == pytest.approx(wanted)


@pytest.mark.parametrize("told", [None, {}, {"backlog_seconds": {}, "busy": {}}])
def test_without_reports_nothing_changes(told: dict[str, dict[str, float]] | None) -> None:
    assert decide(told) == 3


def test_targets_have_their_names() -> None:
    told = {"backlog_seconds": {"a": 1.0}, "busy": {"a": 0.9}}
    assert decide(told, target_backlog_seconds=0.1) == pytest.approx(10.0)
    assert decide(told, target_backlog_seconds=10.0, target_busy=0.3) == pytest.approx(3.0)
