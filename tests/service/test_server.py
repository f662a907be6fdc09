"""Signals and drains: with a gate in the engine where the order of events is the point, and as a process."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.server import Server
from tests.service.listening import listening
from tests.service.process import WAIT, Process, served
from tests.service.waiting import until

Rows = Callable[[int], list[list[float]]]


@asynccontextmanager
async def running(
    settings: Any, make_backend: Any
) -> AsyncIterator[tuple[Server, httpx.AsyncClient, asyncio.Task[None]]]:
    async with listening(settings, make_backend) as it:
        yield it.server, it.client, it.serving


async def status(client: httpx.AsyncClient, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
    response = await (client.get(path) if body is None else client.post(path, json=body))
    return response.status_code, response.json()


async def accepted(client: httpx.AsyncClient, backend: Any, row: list[float]) -> asyncio.Task[Any]:
    """A request that the engine has begun and that waits at its gate."""
    backend.shut()
    asked = asyncio.ensure_future(status(client, "/act", {"observation": row}))
    await asyncio.to_thread(backend.entered.acquire, timeout=WAIT)
    return asked


@pytest.mark.anyio
async def test_in_the_grace_readiness_ends_and_requests_are_still_served(
    make_settings: Any, gated: Any, observations: Rows
) -> None:
    make_backend, made = gated
    row = observations(1)[0]
    async with running(make_settings(drain_grace_seconds=3600), make_backend) as (server, client, serving):
        asked = await accepted(client, made[0], row)
        signal.raise_signal(signal.SIGTERM)
        code, problem = await status(client, "/readyz")
        assert (code, problem["code"], problem["detail"]) == (503, "not_ready", "not ready: draining")
        assert (await status(client, "/healthz"))[0] == 200
        late = asyncio.ensure_future(status(client, "/act", {"observation": row}))
        await until(lambda: server._runtime.scheduler.queued)
        made[0].gate.set()
        assert [(await answer)[0] for answer in (asked, late)] == [200, 200]
        assert not serving.done()
        server.should_exit = True  # the hour need not pass


@pytest.mark.anyio
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_after_the_grace_new_requests_get_503_and_accepted_ones_their_answer(
    make_settings: Any, gated: Any, observations: Rows, number: signal.Signals
) -> None:
    """SIGINT has no grace: the hour of this setting is for SIGTERM only."""
    make_backend, made = gated
    row = observations(1)[0]
    grace = 0 if number == signal.SIGTERM else 3600
    async with running(make_settings(drain_grace_seconds=grace), make_backend) as (server, client, serving):
        asked = await accepted(client, made[0], row)
        signal.raise_signal(number)
        await until(lambda: server._runtime.scheduler._closed)
        code, problem = await status(client, "/act", {"observation": row})
        assert (code, problem["code"]) == (503, "not_ready")
        async with httpx.AsyncClient(base_url=client.base_url, timeout=WAIT) as newcomer:
            code, problem = await status(newcomer, "/act", {"observation": row})
        assert (code, problem["code"]) == (503, "not_ready")
        assert not asked.done()
        assert not serving.done()
        made[0].gate.set()
        code, reply = await asked
        assert (code, len(reply["action"])) == (200, 3)


@pytest.mark.anyio
async def test_what_takes_longer_than_drain_seconds_is_told_so(
    make_settings: Any, gated: Any, observations: Rows
) -> None:
    make_backend, made = gated
    row = observations(1)[0]
    settings = make_settings(drain_grace_seconds=0, drain_seconds=0)
    async with running(settings, make_backend) as (server, client, _):
        asked = await accepted(client, made[0], row)
        queued = asyncio.ensure_future(status(client, "/act", {"observation": row}))
        await until(lambda: server._runtime.scheduler.queued)
        signal.raise_signal(signal.SIGTERM)
        code, problem = await queued
        assert (code, problem["code"]) == (503, "not_ready")
        made[0].gate.set()
        assert (await asked)[0] == 200


def test_sigterm_answers_what_is_in_flight_and_exits_with_0(
    checkpoint: Path, observations: Rows, tmp_path: Path
) -> None:
    rows = observations(64)
    with served(
        "--model", str(checkpoint), "--record-dir", str(tmp_path / "r"), "--drain-grace-seconds", "0"
    ) as server:
        server.wait_for("ready: small")
        assert server.request("GET", "/readyz")[0] == 200
        # Tens of batches of compute: long enough that the signal comes while it is in the engine or its queue.
        body = {"observation": rows, "num_candidates": 1024, "num_steps": 8, "seed": 1}
        answers: list[tuple[int, dict[str, Any]]] = []
        clients = [threading.Thread(target=lambda: answers.append(server.request("POST", "/act", body)))]
        clients[0].start()
        while not _in_flight(server):
            pass
        server.process.send_signal(signal.SIGTERM)
        clients[0].join(WAIT)
        assert server.end() == 0
    ((status, reply),) = answers
    assert status == 200
    assert len(reply["action"]) == 64  # type: ignore[arg-type]
    assert any("SIGTERM: draining" in line for line in server.log)
    assert not any("Traceback" in line for line in server.log)
    (recording,) = (tmp_path / "r").iterdir()
    assert len(recording.read_text().splitlines()) == 2  # the header and the request


def _in_flight(server: Process) -> bool:
    """Has the server accepted a request that it has not answered? By its own metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    return "sorl_requests_in_flight 1.0" in text


@pytest.mark.slow
def test_a_second_signal_ends_the_process_at_once(checkpoint: Path) -> None:
    with served("--model", str(checkpoint), "--drain-grace-seconds", "3600") as server:
        server.wait_for("ready: small")
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("SIGTERM: draining")
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == -signal.SIGTERM


@pytest.mark.slow
def test_a_signal_while_it_warms_up_is_heeded(checkpoint: Path) -> None:
    """It comes right after the sockets are there, warm or not."""
    with served("--model", str(checkpoint), "--drain-grace-seconds", "0") as server:
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == 0
        assert not any("Traceback" in line for line in server.log)


def test_sighup_under_traffic(write: Any, observations: Rows) -> None:
    """Four open connections ask without a pause while one model is replaced, one added, and one found broken."""
    before = write("cube", 1)
    with served("--model", str(before.parent), "--drain-grace-seconds", "0") as server:
        server.wait_for("ready: cube")
        row = observations(1)[0]
        first = server.request("POST", "/act", {"observation": row})[1]["model_version"]
        done = threading.Event()
        met: list[list[tuple[int, str]]] = [[] for _ in range(4)]
        clients = [threading.Thread(target=_ask_until, args=(server, row, done, answers)) for answers in met]
        for client in clients:
            client.start()
        write("cube", 2)
        write("arm", 3)
        (before.parent / "torn.safetensors").write_bytes(before.read_bytes()[:-9])
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("SIGHUP: reloading")
        server.wait_for(r"reload failed, nothing changed: .*torn\.safetensors: truncated")
        server.wait_for("arm: added")
        server.wait_for("cube: swapped")
        second = server.request("POST", "/act", {"observation": row})[1]["model_version"]
        old = server.request("POST", "/act", {"observation": row, "model_version": first})[1]
        arm = server.request("POST", "/act", {"observation": row, "model": "arm"})[1]
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("cube: unchanged")
        done.set()
        for client in clients:
            client.join(WAIT)
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == 0
    assert second != first
    assert (old["model_version"], arm["model"]) == (first, "arm")
    for answers in met:
        assert {status for status, _ in answers} == {200}
        versions = [version for _, version in answers]
        assert versions == sorted(versions, key=[first, second].index)
        assert set(versions) <= {first, second}


def _ask_until(server: Process, row: list[float], done: threading.Event, answers: list[tuple[int, str]]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT)
    body = json.dumps({"observation": row})
    while not done.is_set():
        connection.request("POST", "/act", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answers.append((response.status, json.loads(response.read()).get("model_version", "")))
    connection.close()


def test_reload_over_http_as_a_process(write: Any, observations: Rows) -> None:
    row, admin = observations(1)[0], {"Authorization": "Bearer sesame"}
    path = write("cube", 1)
    arguments = ("--model", str(path), "--admin-key", "sesame", "--version-grace-seconds", "0")
    with served(*arguments) as server:
        server.wait_for("ready: cube")
        first = server.request("POST", "/act", {"observation": row})[1]["model_version"]
        write("cube", 2)
        assert server.request("POST", "/models/cube/reload")[0] == 401
        code, reply = server.request("POST", "/models/cube/reload", headers=admin)
        assert (code, reply["outcome"], reply["previous_version"]) == (200, "swapped", first)
        code, problem = server.request("POST", "/act", {"observation": row, "model_version": first})
        assert (code, problem["code"]) == (409, "version_gone")
        server.process.send_signal(signal.SIGINT)
        assert server.end() == 0


# The same program, with an engine that never comes back from a request of seed 666.
SERVE_STUCK = (
    "-c",
    """
import sys, threading
import kernels.choice

create = kernels.choice.create_backend

def create_stuck(*choices, **options):
    backend = create(*choices, **options)
    sample = backend.sample_and_score
    backend.sample_and_score = lambda batch: threading.Event().wait() if 666 in batch.seed else sample(batch)
    return backend

kernels.choice.create_backend = create_stuck
from service.cli import main
sys.exit(main(sys.argv[1:]))
""",
)


def test_stuck_engine_answers_everyone_and_exits_with_3(checkpoint: Path, observations: Rows, tmp_path: Path) -> None:
    arguments = ("--model", str(checkpoint), "--stuck-seconds", "1", "--record-dir", str(tmp_path / "r"))
    with served(*arguments, program=SERVE_STUCK) as server:
        server.wait_for("ready: small")
        (row,) = observations(1)
        assert server.request("POST", "/act", {"observation": row})[0] == 200
        answers: list[tuple[int, dict[str, Any]]] = []
        bodies = [{"observation": row, "seed": seed} for seed in (666, 1, 2)]
        clients = [
            threading.Thread(target=lambda body=body: answers.append(server.request("POST", "/act", body)))  # type: ignore[misc]
            for body in bodies
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join(WAIT)
        assert server.end() == 3
    assert len([status for status, _ in answers if status == 500]) >= 1
    assert len(answers) == 3
    assert {reply.get("code") for status, reply in answers if status != 200} == {"engine_failed"}
    assert any("stuck_seconds" in line for line in server.log)
    (recording,) = (tmp_path / "r").iterdir()
    assert len(recording.read_text().splitlines()) == 1 + 1 + len([status for status, _ in answers if status == 200])


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (64, 4096, ("Max open files +2176 +4096", None)),  # 2048 and what is open beside connections
        (
            256,
            256,
            ("Max open files +256 +256", "WARNING .*: max_connections is 128, as this process may open 256 files"),
        ),
    ],
)
@pytest.mark.slow
def test_connections_have_files(checkpoint: Path, soft: int, hard: int, expected: tuple[str, str | None]) -> None:
    """The limit of open files is raised as far as connections need it. Where it can't be, they are fewer."""
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))"
    program = ("-c", f"{limited}; import sys; from service.cli import main; sys.exit(main(sys.argv[1:]))")
    with served("--model", str(checkpoint), program=program) as server:
        limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    assert re.search(expected[0], limits)
    warnings = [line for line in server.log if "max_connections" in line]
    assert len(warnings) == (expected[1] is not None)
    assert all(re.search(str(expected[1]), line) for line in warnings)
