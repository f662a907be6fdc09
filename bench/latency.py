"""How long POST /act takes, against a real `sorl-serve` process on this machine."""

from __future__ import annotations

import http.client
import json
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np

WARM_UPS = 20
START_SECONDS = 600.0
"""Longest wait for a server to be ready: the first start compiles."""


def act_latency(
    model: Path, observation: list[float], candidates: int, steps: int, requests: int, *arguments: str
) -> dict[str, float]:
    """Start a server, ask `requests` times, one after the other, over one connection.

    Args:
        arguments: flags of `sorl-serve` beyond model and port.

    Returns:
        p50 and p99 in milliseconds: of the whole request, and of what the server calls compute.

    Raises:
        RuntimeError: the server did not become ready, or answered with an error; the message has its last words.
    """
    with _server(model, arguments) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        body = {"observation": observation, "num_candidates": candidates, "num_steps": steps}
        whole, compute = [], []
        with closing(connection):
            for seed in range(requests + WARM_UPS):
                started = time.perf_counter()
                headers = {"Content-Type": "application/json"}
                connection.request("POST", "/act", json.dumps({**body, "seed": seed}), headers)
                response = connection.getresponse()
                content = response.read()
                whole.append((time.perf_counter() - started) * 1e3)
                if response.status != 200:
                    raise RuntimeError(f"POST /act answered {response.status}: {content.decode()}")
                compute.append(json.loads(content)["timing_ms"]["compute"])
    return {
        f"{name} {label} ms": float(np.quantile(values[WARM_UPS:], share))
        for name, values in (("request", whole), ("compute", compute))
        for label, share in (("p50", 0.5), ("p99", 0.99))
    }


@contextmanager
def _server(model: Path, arguments: tuple[str, ...]) -> Iterator[int]:
    """A ready `sorl-serve`; gives its port."""
    command = [sys.executable, "-m", "service.cli", "--model", str(model), "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said: queue.Queue[str | None] = queue.Queue()
        # All the way to its end, or the server blocks on a full pipe.
        reader = threading.Thread(target=_read, args=(process.stderr, said), daemon=True)
        reader.start()
        try:
            yield _port(said)
        finally:
            process.terminate()
            reader.join()


def _read(stream: IO[str], said: queue.Queue[str | None]) -> None:
    for line in stream:
        said.put(line)
    said.put(None)


def _port(said: queue.Queue[str | None]) -> int:
    """Wait for the server's "ready"; the port it listens on was said before."""
    lines: list[str] = []
    port = 0
    deadline = time.monotonic() + START_SECONDS
    with suppress(queue.Empty):
        while (line := said.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
            lines.append(line)
            if match := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
                port = int(match[1])
            if port and re.search(r"\bready: ", line):
                return port
            if "stays not ready" in line:
                break
    raise RuntimeError("sorl-serve did not become ready:\n" + "".join(lines[-20:]))
