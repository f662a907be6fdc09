"""What operators see: metrics, traces, logs and the last minute's answers. It reads requests' timelines."""

from service.observability.logs import configure_logging
from service.observability.metrics import ClosedFor, Metrics
from service.observability.observer import Observer, loggable
from service.observability.stats import Stats
from service.observability.timeline import RequestTimeline
from service.observability.tracing import TracingUnavailable, otlp_tracer

__all__ = [
    "ClosedFor",
    "Metrics",
    "Observer",
    "RequestTimeline",
    "Stats",
    "TracingUnavailable",
    "configure_logging",
    "loggable",
    "otlp_tracer",
]
