"""Latency of POST /act, measured against a real `sorl-serve` process on this machine."""

from __future__ import annotations

import http.client
import json
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from bench import wrk
from bench.process import serving, sorl_serve

WARM_UPS = 20
LOOP_SECONDS = 3


def act_latency(
    model: Path,
    observation: list[float],
    candidates: int,
    steps: int,
    requests: int,
    *arguments: str,
    clients: tuple[int, ...] = (),
) -> dict[str, float]:
    """Start a server and send `requests` requests, one after another, over one connection.

    Args:
        arguments: flags of `sorl-serve` besides model and port.
        clients: numbers of clients of closed loops afterwards (wrk), three seconds each.

    Returns:
        p50 and p99, in ms, of the whole request and of the server's compute time; then for each closed loop the
        requests/s with a 2xx response.

    Raises:
        RuntimeError: the server did not become ready (the message has the end of its log), or replied with an error.
    """
    with serving(sorl_serve(model, *arguments)) as server:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
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
        rates = {f"{count} clients, requests/s": _closed_loop(server.url, body, count) for count in clients}
    latencies = {
        f"{name} {label} ms": float(np.quantile(values[WARM_UPS:], share))
        for name, values in (("request", whole), ("compute", compute))
        for label, share in (("p50", 0.5), ("p99", 0.99))
    }
    return latencies | rates


def _closed_loop(url: str, fields: dict[str, Any], clients: int) -> float:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as body:
        json.dump(fields, body)
        body.flush()
        wrk.load(url, Path(body.name), clients, 1)
        figures = wrk.load(url, Path(body.name), clients, LOOP_SECONDS)
    return (figures["requests"] - figures["failed"]) / figures["seconds"]
