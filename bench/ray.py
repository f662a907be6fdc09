"""`sorl-bench ray`: requests/s of Ray Serve with one and two replicas against one plain server, on the same machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from bench.machine import describe
from bench.serve import load, request_body, serving
from bench.table import print_table, run_subcommand
from policy import load_policy

ROOT = Path(__file__).parent.parent
START_SECONDS, POLL_SECONDS = 120, 0.2


@dataclass(frozen=True)
class RayBenchConfig:
    """Start a plain server and local Ray Serves in turn and load each with wrk (Debian's package), in rounds."""

    model: Path = ROOT / "deploy" / "policies" / "cube-single.safetensors"
    """Policy to serve."""
    num_candidates: int = 32
    """N of every request."""
    num_steps: int = 4
    """M of every request."""
    connections: tuple[int, ...] = (1, 16, 64)
    """Closed-loop clients."""
    threads: int = 1
    """Compute threads of the plain server and of each replica."""
    seconds: int = 4
    """Length of a measurement; one of a second before it is thrown away."""
    rounds: int = 3
    """Rounds; the table shows medians."""
    json: Path | None = None
    """Write everything here."""


def run(config: RayBenchConfig) -> dict[str, Any]:
    """Returns what `--json` writes."""
    spec = load_policy(config.model).spec
    settings = {"model": str(config.model.resolve())}
    servers: dict[str, Callable[[], AbstractContextManager[str | RayServe]]] = {
        "sorl-serve": lambda: serving(config.model, ["--threads", str(config.threads)]),
        "Ray Serve, 1 replica": lambda: ray_serving(_fixed(1, config.threads, settings)),
        "Ray Serve, 2 replicas": lambda: ray_serving(_fixed(2, config.threads, settings)),
    }
    figures: dict[tuple[str, int], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body.json"
        body.write_text(request_body(spec.obs_dim, config.num_candidates, config.num_steps))
        for _ in range(config.rounds):
            for name, start in servers.items():
                with start() as server:
                    url = server.url if isinstance(server, RayServe) else server
                    for clients in config.connections:
                        load(url, body, clients, 1)
                        figures.setdefault((name, clients), []).append(load(url, body, clients, config.seconds))
    rows = [
        {
            "server": name,
            "clients": clients,
            "requests/s": statistics.median(f["requests"] / f["seconds"] for f in found),
            "p50 ms": statistics.median(f["p50_ms"] for f in found),
            "p99 ms": statistics.median(f["p99_ms"] for f in found),
            "failed": int(sum(f["failed"] for f in found)),
        }
        for (name, clients), found in figures.items()
    ]
    budget = f"({config.num_candidates},{config.num_steps})"
    return {"machine": describe(), "threads": config.threads, "rounds": config.rounds, "budget": budget, "rows": rows}


def _fixed(replicas: int, threads: int, settings: dict[str, Any]) -> dict[str, Any]:
    return {"settings": settings, "num_cpus": threads, "min_replicas": replicas, "max_replicas": replicas}


@dataclass(frozen=True)
class RayServe:
    """Where it listens, and the process above all of its processes."""

    url: str
    pid: int


@contextlib.contextmanager
def ray_serving(arguments: dict[str, Any]) -> Iterator[RayServe]:
    """`serve run` with deploy/ray/serve.yaml on a Ray of its own and a free port, ready.

    Args:
        arguments: of `deploy.ray.application.build`, instead of the file's.

    Raises:
        ChildProcessError: it did not become ready; the message has its log.
    """
    configuration = yaml.safe_load((ROOT / "deploy" / "ray" / "serve.yaml").read_text())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration["http_options"] |= {"host": "127.0.0.1", "port": port}
    (application,) = configuration["applications"]
    application["args"] = arguments
    del application["runtime_env"]
    environment = os.environ | {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0"}
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder) / "serve.yaml", Path(folder) / "log.txt"
        file.write_text(yaml.safe_dump(configuration))
        command = [sys.executable, "-m", "ray.serve.scripts", "run", "--app-dir", str(ROOT), str(file)]
        with (
            log.open("w") as output,
            subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT) as process,
        ):
            try:
                if not _becomes_ready(url, process):
                    raise ChildProcessError(f"Ray Serve is not ready after {START_SECONDS} s:\n{log.read_text()}")
                yield RayServe(url, process.pid)
            finally:
                process.send_signal(signal.SIGINT)


def _becomes_ready(url: str, process: subprocess.Popen[bytes]) -> bool:
    """False if the process ends first, or takes too long. Until it is, Ray's proxy refuses or says 404."""
    end = time.monotonic() + START_SECONDS
    with httpx.Client(timeout=START_SECONDS) as client:
        while time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError):
                if client.get(f"{url}/readyz").is_success:
                    return True
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
                return False
    return False


def print_report(report: dict[str, Any]) -> None:
    print(f"{report['machine']}; {report['threads']} compute thread(s) a replica; (N, M) = {report['budget']}; medians")
    print_table(report["rows"])


def main(arguments: list[str]) -> int:
    """See `RayBenchConfig`."""
    return run_subcommand("ray", RayBenchConfig, arguments, run, print_report)
