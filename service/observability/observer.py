"""Tells metrics, traces, the log and /stats that a request has ended."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping

from service.observability.key_metrics import KeyMetrics
from service.observability.request_metrics import RequestMetrics
from service.observability.stats import Stats
from service.observability.timeline import RequestTimeline
from service.observability.tracing import Tracer

log = logging.getLogger(__name__)

_UUID = re.compile(r"[0-9a-fA-F-]+")


def loggable(request_id: str) -> str:
    """`request_id` for a line above debug. Clients choose ids, and one that could be a text is not shown."""
    return request_id if _UUID.fullmatch(request_id) else "(its id is shown at debug)"


class Observer:
    """Hears of every request. It logs requests at level debug, and those that failed by the server's fault as warnings.

    Args:
        metrics: of every request.
        keys: of requests that brought a key.
        stats: the last minute's.
        tracer: None: no traces.
    """

    def __init__(self, metrics: RequestMetrics, keys: KeyMetrics, stats: Stats, tracer: Tracer | None) -> None:
        self.tracer = tracer
        self._metrics = metrics
        self._keys = keys
        self._stats = stats

    def begin(self) -> RequestTimeline:
        """A request has come."""
        self._metrics.in_flight.inc()
        return RequestTimeline(time.monotonic())

    def end(self, timeline: RequestTimeline, headers: Mapping[bytes, bytes], request_id: str) -> None:
        """A request has ended, as its timeline says. `headers` are its own, by lower-case names."""
        if not timeline.ended:
            timeline.ended = time.monotonic()
        self._metrics.in_flight.dec()
        self._metrics.record(timeline)
        self._keys.record(timeline)
        self._stats.record(timeline)
        trace = None if self.tracer is None else self.tracer.record(timeline, headers, request_id)
        level = logging.WARNING if timeline.error is not None and timeline.error.status == 500 else logging.DEBUG
        if log.isEnabledFor(level):
            _log(level, timeline, request_id if log.isEnabledFor(logging.DEBUG) else loggable(request_id), trace)

    def close(self) -> None:
        """Send the spans that have not been sent. May block: not from the event loop."""
        if self.tracer is not None:
            self.tracer.close()


def _log(level: int, timeline: RequestTimeline, request_id: str, trace: str | None) -> None:
    error, computed = timeline.error, timeline.computed
    outcome = "ok" if error is None else error.code
    fields: dict[str, object] = {"request_id": request_id, "outcome": outcome}
    if computed is not None:
        fields["num_candidates"], fields["num_steps"] = computed.num_candidates, computed.num_steps
        fields["degraded"] = computed.degraded
    if trace is not None:
        fields["trace_id"] = trace
    fields |= {f"{name}_ms": round((end - begin) * 1e3, 4) for name, begin, end in timeline.phases()}
    milliseconds = timeline.total_seconds * 1e3
    detail = "" if error is None else f": {error.detail}"
    log.log(level, "request %s: %s after %.2f ms%s", request_id, outcome, milliseconds, detail, extra=fields)
