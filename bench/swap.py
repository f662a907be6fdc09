"""`sorl-bench swap`: swap the served policy again and again under requests with deadlines; count those that are late.

A robot asks at a fixed rate; in the second load a client beside it asks for larger budgets without pause. Every request
has a deadline: the server may reduce N and M to meet it, and a reply that would be late is a 504. Latency counts from
the time at which a request was to be sent.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.connection import Connection, connect, encode_request
from bench.generator import in_own_process
from bench.machine import describe
from bench.process import NO_GRACE, serving, sorl_serve
from bench.serving.bodies import observation
from bench.table import print_table, run_subcommand
from policy import load_policy, save_policy
from service.settings import shipped_policy

Client = Literal["robot", "closed loop"]
BUDGETS: Mapping[Client, tuple[int, int]] = {"robot": (8, 8), "closed loop": (64, 8)}
LOADS: Mapping[str, tuple[Client, ...]] = {"robot": ("robot",), "robot and loop": ("robot", "closed loop")}
WARM_UP_SECONDS = 1.0


@dataclass(frozen=True)
class SwapBenchConfig:
    """Replace a served policy while robots ask with deadlines, and count what comes too late.

    Each load has as many swaps: the file is replaced, the server is told to reload, and once it has answered there is a
    pause. `during` are requests that were open while a reload ran, `between` are the others. The exit status is 1 if
    any request was not answered with 200.
    """

    model: Path = field(default_factory=shipped_policy)
    """Policy file; it is swapped with a copy that has one weight changed by 1e-6."""
    swaps: int = 20
    """Swaps of each load."""
    loads: tuple[str, ...] = tuple(LOADS)
    """What asks: "robot", with (8, 8); "robot and loop", a closed loop of (64, 8) beside it."""
    deadline_ms: float = 50.0
    """Deadline of every request, in ms."""
    hz: float = 20.0
    """Requests/s of the robot."""
    pause: float = 0.6
    """Seconds between two swaps."""
    threads: int = 0
    """Compute threads of the server; 0 is its default."""
    json: Path | None = None
    """Write the report to this file."""

    def __post_init__(self) -> None:
        for name in ("swaps", "deadline_ms", "hz", "pause"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if unknown := [load for load in self.loads if load not in LOADS]:
            raise ValueError(f"loads must be among {', '.join(map(repr, LOADS))}, got {unknown[0]!r}")
        if not self.model.is_file():
            raise ValueError(f"model: there is no file {self.model}")


@dataclass(frozen=True)
class SwapLoad:
    """What the generator's process is told.

    Attributes:
        url: the server's.
        key: its admin key.
        name: of the policy that is swapped.
        obs_dim: its observation dimension.
        served: the file that the server reads.
        versions: files that are served in turn; `served` has the content of the first.
        clients: who asks.
        config: the settings.
    """

    url: str
    key: str
    name: str
    obs_dim: int
    served: Path
    versions: tuple[Path, Path]
    clients: tuple[Client, ...]
    config: SwapBenchConfig


@dataclass(frozen=True)
class Asked:
    """A request: who sent it, when it was to be sent and was answered (seconds), and the reply's status.

    `reduced`: it was granted less than it asked for.
    """

    client: Client
    intended: float
    received: float
    status: int
    reduced: bool

    @property
    def ms(self) -> float:
        return 1e3 * (self.received - self.intended)

    def during(self, swaps: Sequence[tuple[float, float]]) -> bool:
        """Whether it was open while one of `swaps`, (begin, end), ran."""
        return any(begin <= self.received and self.intended <= end for begin, end in swaps)


@dataclass(frozen=True)
class Swapped:
    """The requests and the swaps, as (begin, end) in seconds, of one load."""

    requests: list[Asked]
    swaps: list[tuple[float, float]]


async def swap_under_load(load: SwapLoad) -> Swapped:
    """Send `load` while the served policy is swapped.

    Raises:
        RuntimeError: a reload was refused.
        OSError: the server is gone.
    """
    return await _Generator(load).run()


class _Generator:
    def __init__(self, load: SwapLoad) -> None:
        self._load = load
        self._requests: list[Asked] = []
        self._done = False
        self._now = time.monotonic  # uvloop's clock has a resolution of 1 ms

    async def run(self) -> Swapped:
        asking: dict[Client, Callable[[], Any]] = {"robot": self._robot, "closed loop": self._closed_loop}
        async with asyncio.TaskGroup() as group:
            for client in self._load.clients:
                group.create_task(asking[client]())
            await asyncio.sleep(WARM_UP_SECONDS)
            self._requests.clear()
            swaps = [await self._swap(number) for number in range(self._load.config.swaps)]
            self._done = True
        return Swapped(self._requests, swaps)

    async def _robot(self) -> None:
        connection, request = await connect(self._load.url), self._request("robot")
        intended = self._now()
        while not self._done:
            await self._ask(connection, "robot", request, intended)
            intended += 1 / self._load.config.hz
            await asyncio.sleep(max(0.0, intended - self._now()))
        connection.close()

    async def _closed_loop(self) -> None:
        connection, request = await connect(self._load.url), self._request("closed loop")
        while not self._done:
            await self._ask(connection, "closed loop", request, self._now())
        connection.close()

    async def _ask(self, connection: Connection, client: Client, request: bytes, intended: float) -> None:
        response = await connection.send(request)
        received = self._now()
        reduced = response.status == 200 and response.json()["degraded"] is not False
        self._requests.append(Asked(client, intended, received, response.status, reduced))

    def _request(self, client: Client) -> bytes:
        n, m = BUDGETS[client]
        fields = {
            "observation": observation(self._load.obs_dim),
            "num_candidates": n,
            "num_steps": m,
            "deadline_ms": self._load.config.deadline_ms,
        }
        return encode_request("POST", "/act", json.dumps(fields).encode())

    async def _swap(self, number: int) -> tuple[float, float]:
        """Replace the file and reload, then pause. Returns when the reload began and ended."""
        load = self._load
        new = load.served.with_suffix(".new")
        os.link(load.versions[(number + 1) % 2], new)  # not a copy: its milliseconds would be the clients'
        new.replace(load.served)
        connection = await connect(load.url)
        path, headers = f"/models/{load.name}/reload", {"Authorization": f"Bearer {load.key}"}
        begin = self._now()
        response = await connection.send(encode_request("POST", path, headers=headers))
        end = self._now()
        connection.close()
        if response.status != 200 or response.json()["outcome"] != "swapped":
            raise RuntimeError(f"the reload answered {response.status}: {response.body.decode(errors='replace')}")
        await asyncio.sleep(load.config.pause)
        return begin, end


def run(config: SwapBenchConfig) -> dict[str, Any]:
    """Measure every load, each with a server of its own. Returns the report that `--json` writes.

    Raises:
        CheckpointError: `model` is not a policy.
        RuntimeError: the server did not start, or refused a reload.
    """
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policy = load_policy(config.model)
        versions = folder / "version-1.safetensors", folder / "version-2.safetensors"
        for number, path in enumerate(versions):
            policy.actor.get_parameter("layers.0.bias").data.add_(1e-6 * number)
            save_policy(policy, path)
        for load in config.loads:
            rows += rows_of(load, _measure(config, load, folder / "served.safetensors", versions, policy.spec))
    return {"machine": describe(), "deadline_ms": config.deadline_ms, "hz": config.hz, "rows": rows}


def _measure(config: SwapBenchConfig, load: str, served: Path, versions: tuple[Path, Path], spec: Any) -> Swapped:
    served.unlink(missing_ok=True)
    os.link(versions[0], served)
    key = secrets.token_hex()
    # Without a grace the version before is gone, so that going back to it is a whole swap, too.
    flags = ("--admin-key", key, "--version-grace-seconds", "0", "--threads", str(config.threads), *NO_GRACE)
    with serving(sorl_serve(served, *flags)) as server:
        told = SwapLoad(server.url, key, spec.name, spec.obs_dim, served, versions, LOADS[load], config)
        with in_own_process(swap_under_load, told) as running:
            return running.result()


def rows_of(load: str, swapped: Swapped) -> list[dict[str, Any]]:
    """The table's rows of a load: a row for each client, during and between swaps. Latencies are of all statuses."""
    rows = []
    for client in LOADS[load]:
        for when in ("during", "between"):
            found = [
                asked
                for asked in swapped.requests
                if asked.client == client and asked.during(swapped.swaps) == (when == "during")
            ]
            statuses = [asked.status for asked in found]
            p50, p99, worst = np.quantile([asked.ms for asked in found] or [np.nan], (0.5, 0.99, 1.0)).tolist()
            rows.append(
                {
                    "load": load,
                    "client": client,
                    "swaps": len(swapped.swaps),
                    "s a swap": statistics.median(end - begin for begin, end in swapped.swaps),
                    "when": when,
                    "requests": len(found),
                    "reduced": sum(asked.reduced for asked in found),
                    "504": statuses.count(504),
                    "other failures": sum(status not in (200, 504) for status in statuses),
                    "p50 ms": p50,
                    "p99 ms": p99,
                    "worst ms": worst,
                }
            )
    return rows


def print_report(report: dict[str, Any]) -> None:
    print(f"{report['machine']}; load on the same cores; deadlines of {report['deadline_ms']:g} ms")
    print(", ".join(f"{client}: {budget}" for client, budget in BUDGETS.items()) + f"; robot at {report['hz']:g} Hz")
    print_table(report["rows"])


def failed(report: dict[str, Any]) -> bool:
    """Whether any request was not answered with 200."""
    return any(row["504"] or row["other failures"] for row in report["rows"])


def main(arguments: list[str]) -> int:
    """See `SwapBenchConfig`."""
    return run_subcommand("swap", SwapBenchConfig, arguments, run, print_report, failed)
