"""Spans in OpenTelemetry's own memory, of requests in process; and that without tracing there is nothing of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.observability.tracing import Tracer

pytestmark = pytest.mark.anyio
WAIT = 30
ROOT = Path(__file__).parents[3]

Rows = Callable[[int], list[list[float]]]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    made = InMemorySpanExporter()
    yield made
    made.shutdown()


def trace(client: Any, exporter: InMemorySpanExporter) -> None:
    """From here on requests leave spans in `exporter`."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    client.app.state.runtime.observer.tracer = Tracer(provider)


def finished(exporter: InMemorySpanExporter) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """The one request's span, and its phases in order of time."""
    spans = exporter.get_finished_spans()
    (root,) = [span for span in spans if span.name == "POST /act"]
    phases = sorted((span for span in spans if span is not root), key=lambda span: span.start_time or 0)
    assert root.context is not None
    for span in phases:
        assert span.parent is not None
        assert span.parent.span_id == root.context.span_id
        assert root.start_time <= span.start_time <= span.end_time <= root.end_time  # type: ignore[operator]
    return root, phases


async def test_an_answer_continues_its_clients_trace(
    serve: Any, exporter: InMemorySpanExporter, observations: Rows
) -> None:
    async with serve() as client:
        trace(client, exporter)
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "robot-7"}
        body = {"observation": observations(1)[0], "num_candidates": 3, "num_steps": 2}
        reply = (await client.post("/act", json=body, headers=headers)).json()
    root, phases = finished(exporter)
    assert root.kind == SpanKind.SERVER
    assert f"{root.context.trace_id:032x}" == TRACE  # type: ignore[union-attr]
    assert f"{root.parent.span_id:016x}" == PARENT  # type: ignore[union-attr]
    assert [span.name for span in phases] == ["receive", "queue", "compute", "serialise"]
    attributes = dict(root.attributes or {})
    assert attributes["sorl.request_id"] == reply["request_id"] == "robot-7"
    assert (attributes["sorl.num_candidates"], attributes["sorl.num_steps"]) == (3, 2)
    assert attributes["http.response.status_code"] == 200
    assert root.status.status_code == StatusCode.UNSET
    for span, milliseconds in [(phases[1], reply["timing_ms"]["queue"]), (phases[2], reply["timing_ms"]["compute"])]:
        assert (span.end_time - span.start_time) / 1e6 == pytest.approx(milliseconds, abs=0.001)  # type: ignore[operator]


@pytest.mark.parametrize("header", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01"])
async def test_a_damaged_traceparent_begins_a_trace(
    serve: Any, exporter: InMemorySpanExporter, observations: Rows, header: str
) -> None:
    async with serve() as client:
        trace(client, exporter)
        response = await client.post("/act", json={"observation": observations(1)[0]}, headers={"traceparent": header})
    assert response.status_code == 200
    root, _ = finished(exporter)
    assert root.parent is None
    assert f"{root.context.trace_id:032x}" != TRACE  # type: ignore[union-attr]


async def test_an_unsampled_trace_leaves_nothing(
    serve: Any, exporter: InMemorySpanExporter, observations: Rows
) -> None:
    async with serve() as client:
        trace(client, exporter)
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
        assert (await client.post("/act", json={"observation": observations(1)[0]}, headers=headers)).status_code == 200
    assert exporter.get_finished_spans() == ()


async def test_a_fault_of_the_request_ends_in_receive(serve: Any, exporter: InMemorySpanExporter) -> None:
    async with serve() as client:
        trace(client, exporter)
        assert (await client.post("/act", json={"observation": [1.0]})).status_code == 422
    root, phases = finished(exporter)
    assert [span.name for span in phases] == ["receive"]
    attributes = dict(root.attributes or {})
    assert (attributes["http.response.status_code"], attributes["error.type"]) == (422, "invalid_request")
    assert root.status.status_code == StatusCode.UNSET  # the client's fault, by the conventions for servers


async def test_a_deadline_that_passes_ends_in_the_queue(
    serve: Any, gated: Any, exporter: InMemorySpanExporter, observations: Rows
) -> None:
    make_backend, made = gated
    row = observations(1)[0]
    async with serve(make_backend) as client:
        made[0].shut()
        running = asyncio.ensure_future(client.post("/act", json={"observation": row}))
        assert await asyncio.to_thread(made[0].entered.acquire, timeout=WAIT)
        trace(client, exporter)
        late = await client.post("/act", json={"observation": row, "deadline_ms": 30})
        assert late.status_code == 504
        root, phases = finished(exporter)
        exporter.clear()
        made[0].gate.set()
        await running
    assert [span.name for span in phases] == ["receive", "queue"]
    assert phases[1].end_time == root.end_time
    assert root.status.status_code == StatusCode.ERROR


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """(address, bodies that were posted to /v1/traces), as OpenTelemetry's collector takes them."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", bodies
        server.shutdown()
        thread.join()


async def test_a_server_that_stops_has_sent_its_spans(
    serve: Any, collector: tuple[str, list[bytes]], observations: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As set: settings and OpenTelemetry's variables, its exporter, its wire format."""
    address, bodies = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "robot.fleet=blue")
    async with serve(tracing=True) as client:
        for _ in range(3):
            assert (await client.post("/act", json={"observation": observations(1)[0]})).status_code == 200
    sent = [ExportTraceServiceRequest.FromString(body) for body in bodies]
    resources = [resource for message in sent for resource in message.resource_spans]
    names = [span.name for resource in resources for scope in resource.scope_spans for span in scope.spans]
    assert sorted(names) == sorted(["POST /act", "receive", "queue", "compute", "serialise"] * 3)
    described = {item.key: item.value.string_value for item in resources[0].resource.attributes}
    assert (described["service.name"], described["robot.fleet"]) == ("sorl-serve", "blue")


@pytest.mark.slow
@pytest.mark.parametrize("installed", [True, False])
def test_without_tracing_it_is_not_imported(installed: bool) -> None:
    """In a process of its own, as other tests have imported it here. The API is there anyway: FastAPI needs it."""
    program = (
        f"import sys; sys.modules.update({{}} if {installed} else {{'opentelemetry.sdk': None}})\n"
        "from service.app import create_app; from service.settings import Settings\n"
        "create_app(Settings(backend='reference'))\n"
        "ours = ('opentelemetry.sdk', 'opentelemetry.exporter')\n"
        "print([name for name, module in sys.modules.items() if name.startswith(ours) and module])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_asked_for_without_the_extra_it_is_one_line() -> None:
    program = (
        "import sys; sys.modules['opentelemetry.exporter.otlp'] = None\n"
        "from service.cli import main; sys.exit(main(['--tracing', 'true', '--port', '0', '--backend', 'reference']))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "sorl-serve: error: tracing needs the extra 'otel'" in done.stderr
    assert "Traceback" not in done.stderr
