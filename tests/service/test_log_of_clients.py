"""What clients send is not in the log, unless its level is debug. With a marker in every place of every protocol."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import msgpack
import pytest
import zmq
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.service.process import WAIT, Process, served

MARK = "Zqx7"
"""In every place where a client puts something."""

KEY = "k" * 32
RAW = [
    f"GET /{MARK}?{MARK}={MARK} HTTP/1.1\r\nHost: {MARK}\r\n{MARK}: {MARK}\r\nCookie: {MARK}\r\n\r\n",
    f"{MARK} /act HTTP/1.1\r\nHost: x\r\n\r\n",
    f"POST /act HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {MARK}\r\nContent-Length: 4\r\n\r\n{MARK}",
    f"POST /act HTTP/1.1\r\nHost: x\r\nContent-Length: {MARK}\r\n\r\n{MARK}",
    f"POST /act HTTP/1.1\r\nHost: x\r\nX: {MARK * 10_000}\r\n\r\n",
    f"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: {MARK}\r\n\r\n",
    f"GET /openpi HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: {MARK}\r\n"
    f"Sec-WebSocket-Version: {MARK}\r\n\r\n",
    f"POST /models/{MARK}/reload HTTP/1.1\r\nHost: {MARK}\r\nAuthorization: Bearer {MARK}\r\nOrigin: http://{MARK}\r\n"
    "Content-Length: 0\r\n\r\n",
    f"{MARK}\r\n\r\n",
    f"POST /act HTTP/1.1\r\nHost: {MARK}",  # and nothing more
]
FIELDS: list[dict[str, Any]] = [
    {MARK: MARK},
    {"observation": MARK},
    {"observation": {MARK: [1.0]}},
    {"observation": [0.0] * 6, "model": MARK},
    {"observation": [0.0] * 6, "model_version": MARK},
    {"observation": [0.0] * 6, "request_id": MARK},
    {"observation": [0.0] * 6, "on_late": MARK, "priority": MARK},
    {"observation": [0.0] * 6, "request_id": f"{MARK} \n{MARK}"},
    {"observation": [3e38] * 6, "request_id": MARK},  # no number of the networks holds what comes of it
    {"encoded": MARK},
]


def send_raw(port: int, data: str) -> None:
    """Send `data` and read until the server closes, or says what it has to say."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as connection:
        connection.sendall(data.encode())
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            connection.recv(1 << 16)


def post(server: Process, path: str, fields: Any, key: str) -> None:
    server.request("POST", path, fields, {"Authorization": f"Bearer {key}", "X-Request-ID": MARK})


def infer(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": MARK,
        "inputs": [{"name": MARK, "shape": [1, 6], "datatype": MARK, "data": [MARK]}],
        "outputs": [{"name": MARK}],
        "parameters": fields,
    }


def speak_openpi(port: int, path: str, key: str, frames: list[bytes | str]) -> None:
    """A session for each frame, since an error may end it."""
    for frame in frames:
        headers = {"Authorization": f"Api-Key {key}", "X-Mark": MARK}
        uri = f"ws://127.0.0.1:{port}{path}?{MARK}"
        with (
            contextlib.suppress(ConnectionClosed, InvalidStatus),
            connect(uri, compression=None, proxy=None, additional_headers=headers, open_timeout=WAIT) as session,
        ):
            session.recv(WAIT)
            session.send(frame)
            session.recv(WAIT)


def speak_groot(port: int, messages: list[bytes]) -> None:
    with zmq.Context() as context:
        for message in messages:
            with context.socket(zmq.REQ) as client:
                client.setsockopt(zmq.LINGER, 0)
                client.setsockopt(zmq.RCVTIMEO, WAIT * 1000)
                client.connect(f"tcp://127.0.0.1:{port}")
                client.send(message)
                client.recv()


def speak_grpc(port: int, messages: list[bytes], key: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for method in ("inference.GRPCInferenceService/ModelInfer", f"{MARK}/{MARK}"):
            call = channel.unary_unary(f"/{method}")
            for message in messages:
                metadata = (("authorization", f"Bearer {key}"), ("x-mark", MARK))
                with contextlib.suppress(grpc.RpcError):
                    call(message, metadata=metadata, timeout=WAIT)


def speak_everything(server: Process, ports: dict[str, int]) -> None:
    for data in RAW:
        for port in (server.port, ports["openpi"]):
            send_raw(port, data)
    for key in (KEY, MARK):
        for fields in FIELDS:
            post(server, "/act", fields, key)
            post(server, "/v2/models/small/infer", infer(fields), key)
            post(server, f"/v2/models/{MARK}/infer", infer(fields), key)
        packed = [msgpack.packb(fields) for fields in FIELDS]
        speak_openpi(server.port, "/openpi", key, [*packed, MARK, MARK.encode()])
        speak_openpi(server.port, f"/{MARK}", key, [MARK])
        speak_openpi(ports["openpi"], f"/{MARK}", key, [*packed, MARK])
        calls = [
            {"endpoint": endpoint, "data": {"observation": fields, "options": fields}, "api_token": key}
            for endpoint in ("get_action", "get_modality_config", MARK)
            for fields in FIELDS
        ]
        speak_groot(ports["groot"], [*map(msgpack.packb, calls), MARK.encode()])
        speak_grpc(ports["grpc"], [MARK.encode(), b"\n\x05small\x1a\x04" + MARK.encode()], key)


def log_at(level: str, checkpoint: Path, speak: Callable[[Process, dict[str, int]], None]) -> str:
    """All that a server logs that `speak` speaks to."""
    arguments = ("--openpi-port", "0", "--zmq-port", "0", "--grpc-port", "0", "--log-level", level)
    limits = ("--request-seconds", "0.2", "--drain-grace-seconds", "0")
    with served("--model", str(checkpoint), *arguments, *limits, SORL_API_KEY=KEY, SORL_ADMIN_KEY="a" * 32) as server:
        server.wait_for("ready: small")
        words = {"openpi": "listening on ws", "groot": "listening on tcp", "grpc": "listening on grpc"}
        begin = "".join(server.log)
        ports = {name: int(begin.split(found)[1].split()[0].rpartition(":")[2]) for name, found in words.items()}
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(server.end)  # it reads the log meanwhile, which a pipe would not hold
            speak(server, ports)
            server.process.send_signal(signal.SIGTERM)
            assert ended.result() == 0
    log = "".join(server.log)
    assert "Traceback" not in log
    return log


@pytest.mark.slow
def test_what_clients_send_is_not_in_the_log(checkpoint: Path) -> None:
    log = log_at("info", checkpoint, speak_everything)
    assert [line for line in log.splitlines() if MARK in line] == []
    assert "handshake" not in log  # uvicorn's line for every websocket that is refused
    assert "SIGTERM: draining" in log


@pytest.mark.slow
def test_it_is_at_debug(checkpoint: Path) -> None:
    """So the test above looks where something could be."""

    def speak(server: Process, ports: dict[str, int]) -> None:
        post(server, "/act", {"observation": [0.0] * 6, "model": MARK}, KEY)
        speak_openpi(server.port, f"/{MARK}", KEY, [MARK])

    log = log_at("debug", checkpoint, speak)
    assert re.search(rf"service.observability.observer: request {MARK}: unknown_model .*{MARK}", log)
    assert re.search(rf"uvicorn.error: .* \"WebSocket /{MARK}\?{MARK}\" 404", log)
