"""Who hears that a request has ended: metrics, traces, the log."""

from __future__ import annotations

import logging
import time

from starlette.datastructures import Headers

from service.observability.request_metrics import RequestMetrics
from service.observability.timeline import Journey
from service.observability.tracing import Tracer
from service.web.exchange import Exchange

log = logging.getLogger(__name__)


class Observer:
    """Tells each of them. Requests are logged at level debug, and those that failed by the server's fault as warnings.

    Args:
        metrics: of every request.
        tracer: None: no traces.
    """

    def __init__(self, metrics: RequestMetrics, tracer: Tracer | None) -> None:
        self.tracer = tracer
        self._metrics = metrics

    def begin(self) -> Journey:
        """A request has come."""
        self._metrics.in_flight.inc()
        return Journey(time.monotonic())

    def end(self, journey: Journey, exchange: Exchange) -> None:
        """It has its reply, or `journey.error`."""
        journey.ended = time.monotonic()
        self._metrics.in_flight.dec()
        self._metrics.record(journey)
        trace = None
        if self.tracer is not None:
            trace = self.tracer.record(journey, Headers(scope=exchange.scope), exchange.request_id)
        level = logging.WARNING if journey.error is not None and journey.error.status == 500 else logging.DEBUG
        if log.isEnabledFor(level):
            _log(level, journey, exchange.request_id, trace)

    def close(self) -> None:
        """Send what has not been sent. May block: not from the event loop."""
        if self.tracer is not None:
            self.tracer.close()


def _log(level: int, journey: Journey, request_id: str, trace: str | None) -> None:
    error, work = journey.error, journey.work
    outcome = "ok" if error is None else error.code
    fields: dict[str, object] = {"request_id": request_id, "outcome": outcome}
    if work is not None:
        fields |= {"num_candidates": work.num_candidates, "num_steps": work.num_steps, "degraded": work.degraded}
    if trace is not None:
        fields["trace_id"] = trace
    fields |= {f"{name}_ms": round((end - begin) * 1e3, 4) for name, begin, end in journey.phases()}
    milliseconds = (journey.ended - journey.received) * 1e3
    detail = "" if error is None else f": {error.detail}"
    log.log(level, "request %s: %s after %.2f ms%s", request_id, outcome, milliseconds, detail, extra=fields)
