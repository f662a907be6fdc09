"""Prometheus metrics: prefix `sorl_`, base units, one registry an app. docs/operations.md lists them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version
from typing import Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from policy.flops import Flops
from service.budget import TERMS, CostModel
from service.observability.key_metrics import KeyMetrics
from service.observability.request_metrics import LATENCY_BUCKETS, RequestMetrics
from service.timing import BatchSize

ROW_BUCKETS = tuple(2**power for power in range(15))
ClosedFor = Literal["full", "slow", "large_headers", "malformed", "unread"]
"""Why the server closes a connection on its client."""
RELOADS = ("swapped", "added", "restored", "unchanged", "failed")

disable_created_metrics()  # type: ignore[no-untyped-call]  # a further series for each metric, which nobody asked for


class Metrics:
    """All metrics of one app. Safe from any thread."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self.requests = RequestMetrics(registry)
        self.keys = KeyMetrics(registry)
        self._batch = Histogram("sorl_batch_seconds", "Compute of a batch", buckets=LATENCY_BUCKETS, registry=registry)
        self._batch_rows = Histogram(
            "sorl_batch_rows", "Network rows (observations x candidates) of a batch", buckets=ROW_BUCKETS,
            registry=registry,
        )  # fmt: skip
        self._batch_requests = Histogram(
            "sorl_batch_requests", "Requests of a batch", buckets=ROW_BUCKETS[:11], registry=registry
        )
        evaluations = Counter(
            "sorl_network_evaluations_total", "Rows evaluated by a network", ["network"], registry=registry
        )
        self._actor_evaluations, self._critic_evaluations = evaluations.labels("actor"), evaluations.labels("critic")
        flops = Counter(
            "sorl_network_flops_total", "Floating-point operations of matrix products, as needed at the least",
            ["network"], registry=registry,
        )  # fmt: skip
        self._actor_flops, self._critic_flops = flops.labels("actor"), flops.labels("critic")
        self._nonfinite = Counter(
            "sorl_nonfinite_outputs_total", "Requests failed as the policy gave NaN or infinity", registry=registry
        )
        self.queue_requests = Gauge("sorl_queue_requests", "Requests waiting", registry=registry)
        self.queue_backlog = Gauge("sorl_queue_backlog_seconds", "Predicted compute waiting", registry=registry)
        self._cost = Gauge(
            "sorl_cost_coefficient_seconds",
            "Cost model as fitted at warm-up, by term",
            ["model", "term"],
            registry=registry,
        )
        self._cost_factor = Gauge(
            "sorl_cost_factor", "Batches' time over what was fitted at warm-up", ["model"], registry=registry
        )
        self._cost_error = Gauge(
            "sorl_cost_relative_error", "Running mean of |measured / predicted - 1|", ["model"], registry=registry
        )
        self.reply_time = Gauge(
            "sorl_reply_reserve_seconds",
            "From the end of compute to the encoded reply, 99th percentile",
            registry=registry,
        )
        self.lag = Gauge("sorl_loop_lag_seconds", "Event-loop lag, 99th percentile", registry=registry)
        self.schedule_delay = Gauge(
            "sorl_queue_slip_seconds", "How much later than predicted requests are computed, 99th percentile",
            registry=registry,
        )  # fmt: skip
        self.ready = Gauge("sorl_ready", "1 when /readyz says so", registry=registry)
        self.recorder_dropped = Counter(
            "sorl_recorder_dropped_total",
            "Requests that the flight recorder lost: its queue or the disk was full",
            registry=registry,
        )
        self.reloads = Counter(
            "sorl_reloads_total",
            f"Reloads by outcome: {', '.join(RELOADS[:-1])} or failed; model is empty where a file names none",
            ["model", "outcome"],
            registry=registry,
        )
        self.reloads.labels("", "failed")  # from 0: a series that begins at 1 has not risen, and no alert sees it
        self.keys_stale = Gauge(
            "sorl_keys_stale", "1 while the keys file can't be used and the keys before are in force", registry=registry
        )
        self.connections = Gauge("sorl_connections", "Connections open, websockets among them", registry=registry)
        self._closed = Counter(
            "sorl_connections_closed_total",
            "Connections that the server closed on their client, by reason: too many of them, slow to send a request, "
            "long headers, not HTTP, slow to read a reply",
            ["reason"],
            registry=registry,
        )
        for reason in get_args(ClosedFor):
            self._closed.labels(reason)
        self._model = Info("sorl_model", "A policy served, in its current version", ["name"], registry=registry)
        self._engine = Info("sorl_engine", "What computes", ["engine"], registry=registry)
        Info("sorl_build", "What was installed", registry=registry).info(
            {"version": version("sorl-serve"), "python": platform.python_version(), "torch": version("torch")}
        )

    def count_live(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Export a counter that somebody else keeps; `read` is called whenever metrics are read."""
        self.registry.register(_LiveCounter(f"sorl_{name}", text, read))

    def count_closed(self, reason: ClosedFor) -> None:
        """The server has closed a connection on its client."""
        self._closed.labels(reason).inc()

    def show_model(self, name: str, version: str, engine: str) -> None:
        """`name` is served in `version` from now on. Each name has one series, whatever versions come and go."""
        self._model.labels(name).info({"version": version, "engine": engine})
        for outcome in RELOADS:
            self.reloads.labels(name, outcome)

    def show_engine(self, engine: str, *, choice: str, device: str) -> None:
        """The settings `choice` and `device` led to `engine`."""
        self._engine.labels(engine).info({"choice": choice, "device": device})

    def show_cost(self, model: str, cost: CostModel) -> None:
        """Export a cost model, which is read whenever metrics are."""
        for term in TERMS:
            self._cost.labels(model, term).set_function(partial(cost.coefficient, term))
        self._cost_factor.labels(model).set_function(lambda: cost.factor)
        self._cost_error.labels(model).set_function(lambda: cost.relative_error)

    def count_batch(
        self, size: BatchSize, *, requests: int, nonfinite: int, members: int, flops: Flops, seconds: float
    ) -> None:
        """A batch has been computed.

        Args:
            size: its sums.
            requests, nonfinite: how many requests it held, and how many of them failed with NaN or infinity.
            members: size of the policy's ensemble.
            flops: of the policy.
            seconds: that it took.
        """
        self._batch.observe(seconds)
        self._batch_requests.observe(requests)
        self._batch_rows.observe(size.critic_rows)
        if nonfinite:
            self._nonfinite.inc(nonfinite)
        self._actor_evaluations.inc(size.actor_rows)
        self._critic_evaluations.inc(size.critic_rows * members)
        self._actor_flops.inc(size.actor_rows * flops.actor_row + size.observations * flops.actor_observation)
        self._critic_flops.inc(size.critic_rows * flops.critic_row + size.observations * flops.critic_observation)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)


class _LiveCounter(Collector):
    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self._name = name
        self._text = text
        self._read = read

    def collect(self) -> Iterable[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._text, value=self._read())
