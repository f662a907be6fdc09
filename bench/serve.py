"""`sorl-bench serve`: requests/s and latency over HTTP, by engine, with wrk in a closed loop on the same machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.engine import EngineBenchConfig, make_policy
from bench.machine import describe
from bench.table import print_table, run_subcommand
from policy import save_policy

BUDGETS = [(32, 4), (1, 1)]
SERVERS: dict[str, list[str]] = {
    "ours, cpu/bf16": ["--backend", "cpu", "--precision", "bf16"],
    "ours, cpu/fp32": ["--backend", "cpu", "--precision", "fp32"],
    "ours, reference": ["--backend", "reference"],
}


@dataclass(frozen=True)
class ServeBenchConfig:
    """Start the server with each engine in turn and load it with wrk (Debian's package), in alternating rounds."""

    connections: tuple[int, ...] = (1, 16, 64)
    """Closed-loop clients."""
    seconds: int = 4
    """Length of a measurement; one before it is thrown away."""
    rounds: int = 3
    """Rounds; the table shows medians."""
    threads: int = 1
    """Compute threads of the server."""
    json: Path | None = None
    """Write everything here."""


def run(config: ServeBenchConfig) -> dict[str, Any]:
    """Returns what `--json` writes.

    Raises:
        FileNotFoundError: wrk is not installed.
    """
    if shutil.which("wrk") is None:
        raise FileNotFoundError("wrk is not installed (Debian: apt-get install wrk)")
    figures: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        policy = make_policy(EngineBenchConfig())
        save_policy(policy, Path(folder) / "bench.safetensors")
        for _ in range(config.rounds):
            for name, flags in SERVERS.items():
                with serving(Path(folder) / "bench.safetensors", [*flags, "--threads", str(config.threads)]) as url:
                    for n, m in BUDGETS:
                        body = Path(folder) / f"{n}-{m}.json"
                        body.write_text(request_body(policy.spec.obs_dim, n, m))
                        for clients in config.connections:
                            load(url, body, clients, 1)
                            figure = load(url, body, clients, config.seconds)
                            figures.setdefault((name, f"({n},{m})", clients), []).append(figure)
    rows = [
        {
            "server": name,
            "(N,M)": budget,
            "clients": clients,
            "requests/s": statistics.median(f["requests"] / f["seconds"] for f in found),
            "p50 ms": statistics.median(f["p50_ms"] for f in found),
            "p99 ms": statistics.median(f["p99_ms"] for f in found),
            "failed": int(sum(f["failed"] for f in found)),
        }
        for (name, budget, clients), found in sorted(figures.items(), key=lambda item: item[0][1:] + item[0][:1])
    ]
    return {"machine": describe(), "threads": config.threads, "rounds": config.rounds, "rows": rows}


def request_body(obs_dim: int, num_candidates: int, num_steps: int) -> str:
    observation = np.random.default_rng(0).standard_normal(obs_dim).round(4).tolist()
    return json.dumps({"observation": observation, "num_candidates": num_candidates, "num_steps": num_steps})


def load(url: str, body: Path, clients: int, seconds: int) -> dict[str, float]:
    """One run of wrk. Its one thread drives all clients."""
    script = Path(__file__).with_name("wrk.lua")
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), f"{url}/act"]
    environment = os.environ | {"SORL_WRK_BODY": str(body)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


@contextmanager
def serving(model: Path, flags: list[str]) -> Iterator[str]:
    """A server of ours on a free port, warm. Gives its address."""
    command = [sys.executable, "-m", "service.cli", "--model", str(model), "--port", "0", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url, ready = "", False
        for line in process.stderr:
            if found := re.search(r"http://[\d.]+:\d+", line):
                url = found.group(0)
            ready = ready or "ready" in line
            if url and ready:
                break
        else:
            raise ChildProcessError("the server ended before it was ready; its log is above")
        try:
            yield url
        finally:
            process.terminate()
            process.stderr.read()


def print_report(report: dict[str, Any]) -> None:
    print(f"{report['machine']}; {report['threads']} compute thread(s); wrk on the same cores; medians")
    print_table(report["rows"])


def main(arguments: list[str]) -> int:
    """See `ServeBenchConfig`."""
    return run_subcommand("serve", ServeBenchConfig, arguments, run, print_report)
