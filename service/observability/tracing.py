"""Spans of requests, by OpenTelemetry (extra `otel`), which is imported when a tracer is made and not before.

    POST /act                  continues the trace of the request's `traceparent` header, if it has one
    ├── receive                body read, decoded, checked, budget granted
    ├── queue                  waiting for the first slice
    ├── compute                first slice to last
    └── serialise              the reply encoded

Spans are made when the request has ended, from times that were taken anyway: a request waits for none of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from service.observability.timeline import Journey

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.util.types import AttributeValue


class TracingUnavailable(RuntimeError):
    """Tracing was asked for, and what it needs is not installed."""


class Tracer:
    """Makes spans in `provider`, which it owns."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("sorl-serve")
        self._extract = TraceContextTextMapPropagator().extract
        self._within = set_span_in_context
        self._server, self._error = SpanKind.SERVER, StatusCode.ERROR

    def record(self, journey: Journey, headers: Mapping[str, str], request_id: str) -> str:
        """The spans of a request that has ended. Returns its trace's id, 32 hex digits."""
        offset = time.time_ns() - time.monotonic_ns()

        def nanoseconds(moment: float) -> int:
            return offset + round(moment * 1e9)

        root = self._tracer.start_span(
            "POST /act",
            context=self._extract(headers),
            kind=self._server,
            attributes=_attributes(journey, request_id),
            start_time=nanoseconds(journey.received),
        )
        if journey.error is not None and journey.error.status >= 500:
            root.set_status(self._error, journey.error.detail)
        within = self._within(root)
        for name, begin, end in journey.phases():
            self._tracer.start_span(name, context=within, start_time=nanoseconds(begin)).end(nanoseconds(end))
        root.end(nanoseconds(journey.ended))
        return f"{root.get_span_context().trace_id:032x}"

    def close(self) -> None:
        """Send what has not been sent, and stop. Blocks."""
        self._provider.shutdown()


def otlp_tracer() -> Tracer:
    """A tracer that sends by OTLP over HTTP, set by OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, ...).

    Raises:
        TracingUnavailable: without the extra `otel`.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise TracingUnavailable(f"tracing needs the extra 'otel' (pip install 'sorl-serve[otel]'): {error}") from None
    resource = Resource.create({"service.name": "sorl-serve"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracer(provider)


def _attributes(journey: Journey, request_id: str) -> dict[str, AttributeValue]:
    """By OpenTelemetry's conventions for HTTP servers, and ours below `sorl.`."""
    error, work, spec = journey.error, journey.work, journey.spec
    attributes: dict[str, AttributeValue] = {
        "http.request.method": "POST",
        "http.route": "/act",
        "http.response.status_code": 200 if error is None else error.status,
        "sorl.request_id": request_id,
    }
    if error is not None:
        attributes["error.type"] = error.code
    if spec is not None:
        attributes["sorl.model"] = spec.name
    if work is not None:
        attributes["sorl.num_candidates"] = work.num_candidates
        attributes["sorl.num_steps"] = work.num_steps
        attributes["sorl.degraded"] = work.degraded or "no"
    return attributes
