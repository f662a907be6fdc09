"""`sorl-serve` as a process: start, serve, drain; and one line for each thing a user can get wrong."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

WAIT = 60


class Process:
    """A running `sorl-serve` on a free port; its log is read line by line, so that waits end when a line comes."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", *arguments, "--port", "0", "--threads", "1"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.log: list[str] = []
        self.port = int(self.wait_for(r"listening on http://127\.0\.0\.1:(\d+)"))

    def wait_for(self, pattern: str) -> str:
        assert self.process.stderr is not None
        timer = threading.Timer(WAIT, self.process.kill)
        timer.start()
        try:
            for line in self.process.stderr:
                self.log.append(line)
                if match := re.search(pattern, line):
                    return match[match.lastindex or 0]
        finally:
            timer.cancel()
        raise AssertionError(f"no {pattern!r} in\n{''.join(self.log)}")

    def request(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, object]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        try:
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def end(self) -> int:
        assert self.process.stderr is not None
        self.log += self.process.stderr.readlines()
        return self.process.wait(WAIT)


@contextmanager
def served(*arguments: str) -> Iterator[Process]:
    running = Process(*arguments)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait()
        assert running.process.stderr is not None
        running.process.stderr.close()


def test_sigterm_answers_what_is_in_flight_and_exits_with_0(
    checkpoint: Path, observations: Callable[[int], list[list[float]]], tmp_path: Path
) -> None:
    rows = observations(64)
    with served("--model", str(checkpoint), "--record-dir", str(tmp_path / "r")) as server:
        server.wait_for("ready: small")
        assert server.request("GET", "/readyz")[0] == 200
        # Tens of slices of compute: long enough that the signal comes while it is in the engine or its queue.
        body = {"observation": rows, "num_candidates": 1024, "num_steps": 8, "seed": 1}
        answers: list[tuple[int, dict[str, object]]] = []
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


def test_same_bits_from_two_processes(checkpoint: Path, observations: Callable[[int], list[list[float]]]) -> None:
    replies = []
    for _ in range(2):
        with served("--model", str(checkpoint)) as server:
            server.wait_for("ready: small")
            replies.append([server.request("POST", "/act", {"observation": r, "seed": 4})[1] for r in observations(5)])
            server.process.send_signal(signal.SIGINT)
            assert server.end() == 0
    for first, second in zip(*replies, strict=True):
        assert [first[name] for name in ("action", "q", "q_std")] == [second[name] for name in ("action", "q", "q_std")]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=WAIT,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("fault", ["missing", "truncated", "port", "setting", "environment", "backend"])
def test_fault_of_the_user_is_one_line(checkpoint: Path, tmp_path: Path, fault: str) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(checkpoint.read_bytes()[:500])
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        arguments, environment, status, expected = {
            "missing": (["--model", "none.safetensors"], {}, 1, r"none\.safetensors: cannot be read"),
            "truncated": (["--model", str(damaged)], {}, 1, r"damaged\.safetensors: truncated"),
            "port": (["--model", str(checkpoint), "--port", port], {}, 1, rf"can't listen on 127\.0\.0\.1:{port}"),
            "setting": (["--max-batch", "none"], {}, 2, "max_batch: "),
            "environment": ([], {"SORL_PROT": "1"}, 2, "SORL_PROT sets nothing; did you mean SORL_PORT"),
            "backend": (
                ["--model", str(checkpoint), "--backend", "triton", "--device", "cpu"],
                {"TRITON_INTERPRET": "0"},
                1,
                "triton",
            ),
        }[fault]
        done = run(*arguments, **environment)
    errors = [line for line in done.stderr.splitlines() if not re.match(r"\d{4}-\d\d-\d\d ", line)]
    assert done.returncode == status
    assert len(errors) == 1
    assert re.match(rf"sorl-serve: error: .*{expected}", errors[0])
