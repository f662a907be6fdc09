"""Fixtures: a fake policy server with real sockets and its own encoding (independent of `wire`), and a fake clock."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest
from sorl_client import AsyncClient, Client

from tests.client.network import OBSERVATION

Answer = tuple[int, dict[str, Any]]


def array(values: Any) -> dict[bytes, Any]:
    values = np.asarray(values, "<f4")
    return {b"__ndarray__": True, b"data": values.tobytes(), b"dtype": "<f4", b"shape": list(values.shape)}


def reply_to(fields: dict[str, Any], action: Any) -> dict[str, Any]:
    """A reply with every field of the protocol."""
    return {
        "action": action,
        "q": -1.5,
        "q_std": 0.25,
        "num_candidates": fields.get("num_candidates", 4),
        "num_steps": fields.get("num_steps", 2),
        "degraded": False,
        "seed": fields.get("seed", 11),
        "model": fields.get("model", "stub"),
        "model_version": "ab" * 32,
        "engine": "cpu/f32/stub",
        "observation_z_max": 2.0,
        "request_id": fields["request_id"],
        "timing_ms": {"queue": 0.1, "compute": 0.2, "total": 0.3},
    }


def read_observation(fields: dict[str, Any]) -> np.ndarray:
    entry = fields["observation"]
    if isinstance(entry, list):
        return np.asarray(entry, np.float32)
    if b"__ndarray__" not in entry:  # parts by name
        return np.concatenate([read_observation({"observation": part}) for part in entry.values()])
    return np.frombuffer(entry[b"data"], entry[b"dtype"]).reshape(entry[b"shape"])


class FakeServer(ThreadingHTTPServer):
    """Counts connections, records requests, and answers /act with a fixed function of observation and seed."""

    daemon_threads = True

    def __init__(self, model: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model = model
        self.others: list[dict[str, Any]] = []  # after it, in /models
        self.connections = 0
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []  # of all requests
        self.answer: Callable[[dict[str, Any]], Answer] = self.act
        self.ready: Callable[[], Answer] = lambda: (200, {"ready": True})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that give up hang up before their answer: no traceback for it on the stderr of a later test."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def act(self, fields: dict[str, Any]) -> Answer:
        observation = read_observation(fields)
        phase = float(observation.sum()) + fields.get("seed", 0) % 1009
        action = np.sin(phase + np.arange(self.model["action_dim"]))
        return 200, reply_to(fields, array(action))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body, a second write after the headers, would wait 40 ms for an ACK
    server: FakeServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        if self.path == "/readyz":
            self.send(*self.server.ready(), "application/json")
        elif self.path == "/models":
            self.send(200, {"models": [self.server.model, *self.server.others]}, "application/json")
        else:
            self.send(404, {"detail": "Not Found"}, "application/json")

    def do_POST(self) -> None:
        self.server.paths.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        media_type = self.headers["Content-Type"]
        fields = msgpack.unpackb(body) if media_type == "application/msgpack" else json.loads(body)
        self.server.requests.append(fields)
        status, reply = self.server.answer(fields)
        self.send(status, reply, media_type if status == 200 else "application/problem+json")

    def send(self, status: int, value: dict[str, Any], media_type: str) -> None:
        body = msgpack.packb(value) if media_type == "application/msgpack" else json.dumps(value).encode()
        with contextlib.suppress(ConnectionError):  # the client may have hung up
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


@pytest.fixture
def fake_server() -> Iterator[Callable[..., FakeServer]]:
    with contextlib.ExitStack() as stack:

        def start(**model: Any) -> FakeServer:
            defaults = {"name": "stub", "version": "ab" * 32, "obs_dim": 2, "action_dim": 2, "control_hz": 10.0}
            server = stack.enter_context(FakeServer(defaults | model))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return server

        yield start


class FakeClock:
    """A clock that advances only by `sleep`, or by a test that sets `now`."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(name="reply_to")
def reply_to_fixture() -> Callable[..., dict[str, Any]]:
    return reply_to


class Blocking:
    """An `AsyncClient` whose methods block."""

    def __init__(self, client: AsyncClient, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments, **keywords: self._runner.run(getattr(self._client, name)(*arguments, **keywords))


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes a client of either kind, whose calls block. `fake` is its clock, which its sleeps advance."""
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())

        def make(url: str = "http://robot.test", fake: Any = None, **settings: Any) -> Any:
            if fake is not None:
                settings |= {"clock": fake, "sleep": fake.sleep if request.param == "sync" else fake.asleep}
            if request.param == "sync":
                return stack.enter_context(Client(url, **settings))
            client = AsyncClient(url, **settings)
            stack.callback(lambda: runner.run(client.aclose()))
            return Blocking(client, runner)

        yield make


@pytest.fixture
def scripted(connect, clock):
    """Makes a client of either kind whose network is `handler`. All its random draws are 0.5."""

    def make(handler, **settings):
        return connect(transport=httpx.MockTransport(handler), fake=clock, random=lambda: 0.5, **settings)

    return make


@pytest.fixture
def ask(scripted):
    """Calls one method of a client of either kind whose network is `handler`."""

    def call(handler, method="act", *arguments, options=(), **keywords):
        if method == "act":
            arguments = arguments or (OBSERVATION,)
        return getattr(scripted(handler, **dict(options)), method)(*arguments, **keywords)

    return call


@pytest.fixture
def good(reply_to):
    def answer(_, fields, **changes):
        body = msgpack.packb(reply_to(fields, [0.25, -0.75]) | changes)
        return httpx.Response(200, content=body, headers={"Content-Type": "application/msgpack"})

    return answer
