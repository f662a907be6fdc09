"""JSON lines: one object a line, whatever is logged; requests by their ids."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from kernels.backend import SampleBatch, SampleResult
from service.errors import NonfiniteOutput
from service.observability.key_metrics import KeyMetrics
from service.observability.logs import JsonFormatter
from service.observability.observer import Observer
from service.observability.request_metrics import RequestMetrics
from service.observability.stats import Stats
from service.observability.timeline import RequestTimeline

ROOT = Path(__file__).parents[3]
Rows = Callable[[int], list[list[float]]]


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What has been logged since, as JSON."""
    stream, root = io.StringIO(), logging.getLogger()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(level)


def test_a_line_is_an_object(lines: Callable[[], list[dict[str, Any]]]) -> None:
    log = logging.getLogger("robot")
    log.info("first %d\nsecond %s", 7, "\x00", extra={"request_id": "a", "path": Path("x"), "message_id": 3})
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("it failed")
    first, second = [line for line in lines() if line["logger"] == "robot"]
    assert first["message"] == "first 7\nsecond \x00"
    assert (first["level"], first["request_id"], first["path"], first["message_id"]) == ("info", "a", "x", 3)
    offset = datetime.fromisoformat(first["time"]).utcoffset()
    assert offset is not None
    assert offset.total_seconds() == 0
    assert "exception" not in first
    assert second["exception"].splitlines()[-1] == "ValueError: why"
    assert set(second) == {"time", "level", "logger", "message", "exception"}


@pytest.mark.parametrize(
    ("request_id", "shown"),
    [("0f8fad5b-d9cd-469f-a165-70867728950e", True), ("ab" * 16, True), ("password=hunter2", False), ("é", False)],
)
@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_a_fault_of_the_server_names_a_request_by_an_id_that_is_no_text(
    caplog: pytest.LogCaptureFixture, request_id: str, shown: bool, level: int
) -> None:
    timeline = RequestTimeline(0.0)
    timeline.error = NonfiniteOutput("row 0")
    registry = CollectorRegistry()
    observer = Observer(RequestMetrics(registry), KeyMetrics(registry), Stats(), None)
    with caplog.at_level(level, "service.observability.observer"):
        observer.begin()
        observer.end(timeline, {}, request_id)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert (request_id in record.getMessage()) == (request_id == record.request_id) == (shown or level == logging.DEBUG)


def test_half_a_surrogate_pair_is_logged() -> None:
    """Formatted only: what the test's own log keeps of it can't leave the process as UTF-8."""
    record = logging.LogRecord("robot", logging.INFO, __file__, 1, "%s", ("\ud800",), None)
    assert json.loads(JsonFormatter().format(record))["message"] == "\ud800"


@pytest.mark.anyio
async def test_requests_are_logged_by_their_ids(
    serve: Any, gated: Any, observations: Rows, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    make_backend, made = gated
    row = observations(1)[0]

    def spoil(batch: SampleBatch, result: SampleResult) -> SampleResult:
        raise RuntimeError("secret")

    async with serve(make_backend) as client:
        body = {"observation": row, "num_candidates": 2, "num_steps": 1}
        await client.post("/act", json=body, headers={"X-Request-ID": "in-header"})
        await client.post("/act", json={**body, "request_id": "in-body"}, headers={"X-Request-ID": "overruled"})
        made[0].spoil = spoil
        failed = await client.post("/act", json={**body, "request_id": "broken"})
    of_requests = {line["request_id"]: line for line in lines() if line["logger"] == "service.observability.observer"}
    assert set(of_requests) == {"in-header", "in-body", "broken"}
    assert of_requests["in-header"]["level"] == "debug"
    assert (of_requests["in-header"]["num_candidates"], of_requests["in-header"]["outcome"]) == (2, "ok")
    assert of_requests["in-header"]["compute_ms"] > 0
    assert of_requests["broken"]["level"] == "warning"
    assert of_requests["broken"]["outcome"] == failed.json()["code"] == "engine_failed"


@pytest.mark.anyio
@pytest.mark.parametrize("given", [b"two words", b"x" * 129, "caf\u00e9".encode(), b""])
async def test_an_id_that_can_not_be_echoed_is_refused(serve: Any, observations: Rows, given: bytes) -> None:
    async with serve() as client:
        response = await client.post("/act", json={"observation": observations(1)[0]}, headers={b"X-Request-ID": given})
    assert response.status_code == 422
    problem = response.json()
    assert problem["field"] == "X-Request-ID"
    assert response.headers["x-request-id"] == problem["request_id"] != given.decode()


@pytest.mark.slow
def test_a_server_that_can_not_start_logs_json_up_to_there() -> None:
    """A whole process, by flags: what it says before it leaves, line by line."""
    command = [sys.executable, "-m", "service.cli", "--log-format", "json", "--host", "256.0.0.1", "--backend", "auto"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    *said, refusal = done.stderr.splitlines()
    assert refusal.startswith("sorl-serve: error: can't listen on 256.0.0.1:8000")
    assert said
    for line in map(json.loads, said):
        assert {"time", "level", "logger", "message"} <= set(line)
