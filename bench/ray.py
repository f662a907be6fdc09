"""`sorl-bench ray`: requests/s of Ray Serve with one and two replicas against one plain server, on the same machine."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import describe
from bench.process import NO_GRACE, ServerProcess, serving, sorl_serve
from bench.ray_serve import RayServe, ray_serving
from bench.serving.bodies import observation
from bench.table import print_table, run_subcommand
from bench.wrk import load, require_wrk
from policy import load_policy

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class RayBenchConfig:
    """Load a plain server and local Ray Serve instances in turn with wrk (Debian's package), in rounds."""

    model: Path = ROOT / "deploy" / "policies" / "cube-single.safetensors"
    """Policy to serve."""
    num_candidates: int = 32
    """N of every request."""
    num_steps: int = 4
    """M of every request."""
    connections: tuple[int, ...] = (1, 16, 64)
    """Numbers of closed-loop clients."""
    threads: int = 1
    """Compute threads of the plain server and of each replica."""
    seconds: int = 4
    """Seconds per measurement, after one second of warm-up."""
    rounds: int = 3
    """Number of rounds; the table shows medians."""
    json: Path | None = None
    """Write the report to this file."""


def run(config: RayBenchConfig) -> dict[str, Any]:
    """Measure all servers. Returns the report that `--json` writes.

    Raises:
        FileNotFoundError: wrk is not installed.
    """
    require_wrk()
    spec = load_policy(config.model).spec
    settings = {"model": str(config.model.resolve())}
    servers: dict[str, Callable[[], AbstractContextManager[ServerProcess | RayServe]]] = {
        "sorl-serve": lambda: serving(sorl_serve(config.model, "--threads", str(config.threads), *NO_GRACE)),
        "Ray Serve, 1 replica": lambda: ray_serving(_fixed(1, config.threads, settings)),
        "Ray Serve, 2 replicas": lambda: ray_serving(_fixed(2, config.threads, settings)),
    }
    figures: dict[tuple[str, int], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body.json"
        asked = {"num_candidates": config.num_candidates, "num_steps": config.num_steps}
        body.write_text(json.dumps({"observation": observation(spec.obs_dim), **asked}))
        for _ in range(config.rounds):
            for name, start in servers.items():
                with start() as server:
                    for clients in config.connections:
                        load(server.url, body, clients, 1)
                        figures.setdefault((name, clients), []).append(load(server.url, body, clients, config.seconds))
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


def print_report(report: dict[str, Any]) -> None:
    print(f"{report['machine']}; {report['threads']} compute thread(s) a replica; (N, M) = {report['budget']}; medians")
    print_table(report["rows"])


def main(arguments: list[str]) -> int:
    """See `RayBenchConfig`."""
    return run_subcommand("ray", RayBenchConfig, arguments, run, print_report)
