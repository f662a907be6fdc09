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


SERVE = ("-m", "service.cli")

# The same program, with an engine that never comes back from a request of seed 666.
SERVE_STUCK = (
    "-c",
    """
import sys, threading
import kernels.backend

create = kernels.backend.create_backend

def create_stuck(*choices, **options):
    backend = create(*choices, **options)
    sample = backend.sample_and_score
    backend.sample_and_score = lambda batch: threading.Event().wait() if 666 in batch.seed else sample(batch)
    return backend

kernels.backend.create_backend = create_stuck
from service.cli import main
sys.exit(main(sys.argv[1:]))
""",
)


class Process:
    """A running `sorl-serve` on a free port; its log is read line by line, so that waits end when a line comes."""

    def __init__(self, *arguments: str, program: tuple[str, ...] = SERVE, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *program, *arguments, "--port", "0", "--threads", "1"],
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
def served(*arguments: str, program: tuple[str, ...] = SERVE) -> Iterator[Process]:
    running = Process(*arguments, program=program)
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


def test_stuck_engine_answers_everyone_and_exits_with_3(
    checkpoint: Path, observations: Callable[[int], list[list[float]]], tmp_path: Path
) -> None:
    arguments = ("--model", str(checkpoint), "--stuck-seconds", "1", "--record-dir", str(tmp_path / "r"))
    with served(*arguments, program=SERVE_STUCK) as server:
        server.wait_for("ready: small")
        (row,) = observations(1)
        assert server.request("POST", "/act", {"observation": row})[0] == 200
        answers: list[tuple[int, dict[str, object]]] = []
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
