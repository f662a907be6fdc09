"""Prometheus metrics of requests for actions as their clients see it.

Series are made once and kept, since looking one up by its labels costs more than recording into it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

from policy.spec import Budget
from service.errors import ClientGone, DeadlineExceeded, ServiceError, Unavailable
from service.observability.timeline import RequestTimeline
from service.protocol import PROTOCOLS, ProtocolName

# Bounds at control periods: "what share met 20 ms?" is one bucket, not an interpolation.
LATENCY_BUCKETS = tuple(
    ms / 1000 for ms in (0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 25, 33.3, 50, 66.7, 100, 200, 500)
)  # fmt: skip

# Q is on the scale of a task's rewards, of either sign.
_STEPS = [mantissa * 10.0**power for power in (-1, 0, 1, 2) for mantissa in (1, 2, 5)] + [1000.0]
Q_BUCKETS = (*(-step for step in reversed(_STEPS)), 0.0, *_STEPS)
Q_STD_BUCKETS = (0.001, 0.01, *_STEPS)

CONTROL_RATES = (100, 50, 30, 20, 15, 10)
_PERIODS_MS = (10.0, 20.0, 34.0, 50.0, 67.0, 100.0)  # as clients round them up
_RATE_LABELS = (*map(str, CONTROL_RATES), "slower")

DEGRADED = ("deadline", "load", "frontier")
EXACT_STEPS = 16
"""Largest M with series of its own. A larger M is rounded up to a power of two, as N always is."""


class BudgetSeries(NamedTuple):
    """The series of one budget."""

    latency: Histogram
    evaluations: Counter
    gain: Summary


class ProtocolSeries(NamedTuple):
    """The series of one protocol: `failed` by the error's code."""

    ok: Counter
    failed: dict[str, Counter]
    latency: Histogram


class RequestMetrics:
    """Records requests into `registry`. Safe from any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def seconds(name: str, text: str, labels: tuple[str, ...] = ()) -> Histogram:
            return Histogram(f"sorl_{name}_seconds", text, labels, buckets=LATENCY_BUCKETS, registry=registry)

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"sorl_{name}_total", text, labels, registry=registry)

        requests = counter(
            "requests",
            "Requests for actions by protocol, outcome (ok, or the error's code) and HTTP status",
            ("protocol", "outcome", "code"),
        )
        latency = seconds("request", "Receipt to encoded reply of answered requests, by protocol", ("protocol",))
        codes = [(kind.code, str(kind.status)) for kind in _kinds(ServiceError) if "code" in vars(kind)]
        self._protocols = {
            protocol: ProtocolSeries(
                requests.labels(protocol, "ok", "200"),
                {code: requests.labels(protocol, code, status) for code, status in codes},
                latency.labels(protocol),
            )
            for protocol in PROTOCOLS
        }
        self.in_flight = Gauge("sorl_requests_in_flight", "Requests for actions being answered", registry=registry)
        self._queue = seconds("queue", "Wait of answered requests for their first batch")
        self._compute = seconds("compute", "From the first batch of answered requests to the end of their last one")
        self._serialise = seconds("serialise", "From the result to the encoded reply of answered requests")
        labels = ("candidates", "steps")
        self._latency_by_budget = seconds(
            "request_by_budget", "As sorl_request_seconds, by N rounded up to a power of two, and M", labels
        )
        self._granted = counter("granted_evaluations", "Network evaluations of answered requests as granted", labels)
        self._gain = Summary(
            "sorl_q_gain", "Q of the chosen candidate less that of the first, mean over rows", labels, registry=registry
        )
        self._budgets: dict[tuple[int, int], BudgetSeries] = {}
        self._requested = counter("requested_evaluations", "Network evaluations of answered requests as asked for")
        self._q = Histogram("sorl_q", "Q of chosen actions, mean over rows", buckets=Q_BUCKETS, registry=registry)
        self._q_std = Histogram(
            "sorl_q_std", "Spread of the ensemble for chosen actions, mean over rows", buckets=Q_STD_BUCKETS,
            registry=registry,
        )  # fmt: skip
        deadlines = counter(
            "deadlines",
            "Requests with a deadline that were answered in time (met) or late or not at all (missed), by the slowest "
            "control rate whose period holds it",
            ("hz", "outcome"),
        )
        self._met = [deadlines.labels(rate, "met") for rate in _RATE_LABELS]
        self._missed = [deadlines.labels(rate, "missed") for rate in _RATE_LABELS]
        degraded = counter("degraded", "Answered requests granted less than asked, by reason", ("reason",))
        self._degraded = {reason: degraded.labels(reason) for reason in DEGRADED}
        shed = counter("shed", "Requests refused or given up for want of time or readiness, by reason", ("reason",))
        cancelled = counter("cancelled", "Requests whose client hung up, by how far they were", ("reason",))
        kinds = [(kind, shed) for kind in _kinds(ServiceError) if issubclass(kind, (Unavailable, DeadlineExceeded))]
        self._ended = {r: family.labels(r) for kind, family in [*kinds, (ClientGone, cancelled)] for r in kind.reasons}

    def show_budget(self, budget: Budget) -> None:
        """Make the series of `budget`, which begin at 0."""
        self._series(budget.num_candidates, budget.num_steps)

    def count_error(self, error: ServiceError, protocol: ProtocolName = "http") -> None:
        """A request was refused before it had a timeline: one to /act that is no POST, or an upgrade to a websocket."""
        self._protocols[protocol].failed[error.code].inc()

    def record(self, timeline: RequestTimeline) -> None:
        """A request has ended, as its timeline says."""
        error, series = timeline.error, self._protocols[timeline.protocol]
        if error is None:
            series.ok.inc()
            series.latency.observe(timeline.total_seconds)
            self._record_answer(timeline)
            in_time = timeline.deadline is None or timeline.ended <= timeline.deadline.reply
        else:
            series.failed[error.code].inc()
            if error.reason in self._ended:
                self._ended[error.reason].inc()
            if error.status < 500:  # the request's own fault, or its client's
                return
            in_time = False
        if timeline.request is not None and (deadline := timeline.request.deadline_ms) is not None:
            (self._met if in_time else self._missed)[bisect_left(_PERIODS_MS, deadline)].inc()

    def _record_answer(self, timeline: RequestTimeline) -> None:
        request, spec, granted = timeline.request, timeline.spec, timeline.granted
        times, computed, reply = timeline.times, timeline.computed, timeline.reply
        assert request is not None
        assert spec is not None
        assert granted is not None
        assert times is not None
        assert computed is not None
        assert reply is not None
        latency = timeline.total_seconds
        self._queue.observe(times.started - times.submitted)
        self._compute.observe(times.finished - times.started)
        self._serialise.observe(timeline.ended - timeline.encoding)

        rows, members = len(computed.observation), spec.ensemble_size
        asked_n, asked_m = request.num_candidates or granted.num_candidates, request.num_steps or granted.num_steps
        self._requested.inc(rows * asked_n * (asked_m + members))
        by_budget = self._series(computed.num_candidates, computed.num_steps)
        by_budget.latency.observe(latency)
        by_budget.evaluations.inc(computed.rows * (computed.num_steps + members))
        if computed.degraded:
            self._degraded[computed.degraded].inc()

        if rows == 1:  # .item() costs 0.05 us, a mean 3
            q, q_first, q_std = reply.q.item(), reply.q_first.item(), reply.q_std.item()
        else:
            q, q_first, q_std = float(reply.q.mean()), float(reply.q_first.mean()), float(reply.q_std.mean())
        self._q.observe(q)
        self._q_std.observe(q_std)
        by_budget.gain.observe(q - q_first)

    def _series(self, num_candidates: int, num_steps: int) -> BudgetSeries:
        n = (num_candidates - 1).bit_length()
        m = num_steps if num_steps <= EXACT_STEPS else 1 << (num_steps - 1).bit_length()
        series = self._budgets.get((n, m))
        if series is None:
            labels = str(1 << n), str(m)
            series = BudgetSeries(
                self._latency_by_budget.labels(*labels), self._granted.labels(*labels), self._gain.labels(*labels)
            )
            self._budgets[n, m] = series
        return series


def _kinds(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    """`kind` and every error below it."""
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)
