"""Spans of requests, by OpenTelemetry (extra `otel`). It is imported only when a tracer is made.

    POST /act                  continues the trace of the request's `traceparent` header, if it has one
    ├── receive                body read, decoded, checked, budget granted
    ├── queue                  waiting for its first batch
    ├── compute                from its first batch to the end of its last one
    └── serialise              the reply encoded

Spans are made after the request has ended, from times that were taken anyway: no request waits for them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from service.observability.timeline import RequestTimeline

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.util.types import AttributeValue


class TracingUnavailable(RuntimeError):
    """Tracing was asked for, and the packages it needs are not installed."""


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

    def record(self, timeline: RequestTimeline, headers: Mapping[bytes, bytes], request_id: str) -> str:
        """Make the spans of a request that has ended. Returns the id of its trace, 32 hex digits.

        `headers` are the request's, by lower-case names.
        """
        offset = time.time_ns() - time.monotonic_ns()

        def nanoseconds(moment: float) -> int:
            return offset + round(moment * 1e9)

        root = self._tracer.start_span(
            "POST /act",
            context=self._extract({n.decode("latin-1"): v.decode("latin-1") for n, v in headers.items()}),
            kind=self._server,
            attributes=_attributes(timeline, request_id),
            start_time=nanoseconds(timeline.received),
        )
        if timeline.error is not None and timeline.error.status >= 500:
            root.set_status(self._error, timeline.error.detail)
        within = self._within(root)
        for name, begin, end in timeline.phases():
            self._tracer.start_span(name, context=within, start_time=nanoseconds(begin)).end(nanoseconds(end))
        root.end(nanoseconds(timeline.ended))
        return f"{root.get_span_context().trace_id:032x}"

    def close(self) -> None:
        """Send the spans that have not been sent, and stop. Blocks."""
        self._provider.shutdown()


def otlp_tracer() -> Tracer:
    """A tracer that sends by OTLP over HTTP, configured by OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT,
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


def _attributes(timeline: RequestTimeline, request_id: str) -> dict[str, AttributeValue]:
    """Attributes by OpenTelemetry's conventions for HTTP servers, and our own below `sorl.`."""
    error, computed, spec = timeline.error, timeline.computed, timeline.spec
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
    if computed is not None:
        attributes["sorl.num_candidates"] = computed.num_candidates
        attributes["sorl.num_steps"] = computed.num_steps
        attributes["sorl.degraded"] = computed.degraded or "no"
    return attributes
