"""Prometheus metrics: prefix `sorl_`, base units, one registry an app."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from service.cost_model import TERMS, CostModel

# Control periods, so that "what share met 20 ms?" is one bucket and not an interpolation.
LATENCY_BUCKETS = tuple(
    ms / 1000 for ms in (0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 25, 33.3, 50, 66.7, 100, 200, 500)
)  # fmt: skip
ROW_BUCKETS = tuple(2**power for power in range(15))


class Metrics:
    """All metrics of one app. Safe from any thread."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(f"sorl_{name}_seconds", text, buckets=LATENCY_BUCKETS, registry=registry)

        self.requests = Counter(
            "sorl_requests_total", "POST /act by outcome: ok, or the error's code", ["outcome"], registry=registry
        )
        self.in_flight = Gauge("sorl_requests_in_flight", "POST /act being answered", registry=registry)
        self.latency = seconds("request", "Receipt to reply of answered requests")
        self.queue = seconds("queue", "Wait of answered requests for the batch before")
        self.compute = seconds("compute", "Compute of a batch")
        self.batch_rows = Histogram(
            "sorl_batch_rows", "Network rows (observations x candidates) of a batch", buckets=ROW_BUCKETS,
            registry=registry,
        )  # fmt: skip
        self.batch_requests = Histogram(
            "sorl_batch_requests", "Requests of a batch", buckets=ROW_BUCKETS[:11], registry=registry
        )
        self._evaluations = Counter(
            "sorl_network_evaluations_total", "Rows evaluated by a network", ["network"], registry=registry
        )
        self.nonfinite = Counter(
            "sorl_nonfinite_outputs_total", "Requests failed as the policy gave NaN or infinity", registry=registry
        )
        self.queue_requests = Gauge("sorl_queue_requests", "Requests waiting", registry=registry)
        self.queue_backlog = Gauge("sorl_queue_backlog_seconds", "Predicted compute waiting", registry=registry)
        self.degraded = Counter(
            "sorl_degraded_total", "Answered requests granted less than asked, by reason", ["reason"], registry=registry
        )
        self.retries = Gauge(
            "sorl_batch_retries", "Batches that raised and were run request by request", registry=registry
        )
        self.restarts = Gauge("sorl_worker_restarts", "Worker threads that died and were replaced", registry=registry)
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
        self.reserve = Gauge(
            "sorl_reply_reserve_seconds", "What deadlines leave for replies to be written", registry=registry
        )
        self.lag = Gauge(
            "sorl_loop_lag_seconds", "What a request waits for the event loop, 99 of 100 at most", registry=registry
        )
        self.slip = Gauge(
            "sorl_queue_slip_seconds", "How much later than predicted one request in a hundred is computed",
            registry=registry,
        )  # fmt: skip
        self.ready = Gauge("sorl_ready", "1 when /readyz says so", registry=registry)
        self.recorder_dropped = Counter(
            "sorl_recorder_dropped_total", "Requests the flight recorder could not keep up with", registry=registry
        )
        self.reloads = Counter(
            "sorl_reloads_total",
            "Reloads by outcome: swapped, added, restored, unchanged or failed; model is empty where a file names none",
            ["model", "outcome"],
            registry=registry,
        )
        self._model = Info("sorl_model", "A policy served, in its current version", ["name"], registry=registry)
        self._engine = Info("sorl_engine", "What computes", ["engine"], registry=registry)

    def show_model(self, name: str, version: str, engine: str) -> None:
        """`name` is served in `version` from now on: one series a name, whatever versions come and go."""
        self._model.labels(name).info({"version": version, "engine": engine})

    def show_engine(self, engine: str, *, choice: str, device: str) -> None:
        """`engine` is what the settings `choice` and `device` came to."""
        self._engine.labels(engine).info({"choice": choice, "device": device})

    def show_cost(self, model: str, cost: CostModel) -> None:
        """Export `cost`, read anew whenever metrics are."""
        for term in TERMS:
            self._cost.labels(model, term).set_function(partial(cost.coefficient, term))
        self._cost_factor.labels(model).set_function(lambda: cost.factor)
        self._cost_error.labels(model).set_function(lambda: cost.relative_error)

    def count_batch(
        self, *, requests: int, rows: int, actor_evaluations: int, critic_evaluations: int, seconds: float
    ) -> None:
        """One batch has been computed."""
        self.compute.observe(seconds)
        self.batch_requests.observe(requests)
        self.batch_rows.observe(rows)
        self._evaluations.labels("actor").inc(actor_evaluations)
        self._evaluations.labels("critic").inc(critic_evaluations)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
