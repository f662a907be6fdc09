"""`sorl-bench hostile`: what idle websockets and clients that never finish a request cost a robot beside them.

A robot asks at a fixed rate, then a closed loop without pause, alone and beside the hostile connections, in alternating
rounds with one server. Latency counts from the time at which a request was to be sent. Before them the server's CPU
time is measured while nobody asks: that of the hostile connections, whatever else the machine does.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np

from bench.connection import connect, encode_request
from bench.generator import in_own_process
from bench.machine import describe
from bench.process import NO_GRACE, serving, sorl_serve
from bench.serving.bodies import observation
from bench.table import print_table, run_subcommand
from policy import load_policy
from service.settings import shipped_policy

Hostile = Literal["idle websockets", "slow headers"]
Client = Literal["robot", "closed loop"]
CLIENTS: tuple[Client, ...] = ("robot", "closed loop")
BUDGET = (8, 8)
AIM = 1.5
"""Most that a client's p99 may be, as a multiple of its p99 alone."""
WARM_UP_SECONDS = 1.0
BYTE_SECONDS = 1.0
"""From one byte of a slow header to the next."""
CONNECTING = 50
"""Hostile connections that are opened at a time."""


@dataclass(frozen=True)
class HostileBenchConfig:
    """Measure a robot and a closed loop, alone and beside hostile connections.

    The exit status is 1 if a request failed, a websocket was closed, or a slow header got another status than 408.
    """

    model: Path = field(default_factory=shipped_policy)
    """Policy file."""
    websockets: int = 1000
    """Idle websockets: they answer pings, and ask for nothing."""
    slow: int = 200
    """Connections that send a byte of a header every second, and come again when they were closed."""
    seconds: float = 20.0
    """Seconds of each measurement, after one of warm-up."""
    rounds: int = 3
    """Alternating rounds; tables show medians of their quantiles."""
    hz: float = 20.0
    """Requests/s of the robot."""
    request_seconds: float = 10.0
    """The server's setting of this name."""
    threads: int = 0
    """Compute threads of the server; 0 is its default."""
    json: Path | None = None
    """Write the report to this file."""

    def __post_init__(self) -> None:
        for name in ("websockets", "slow", "seconds", "rounds", "hz", "request_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.model.is_file():
            raise ValueError(f"model: there is no file {self.model}")


@dataclass(frozen=True)
class LiveLoad:
    """The clients that are measured: the server's URL, the policy's observation dimension, and the settings."""

    url: str
    obs_dim: int
    config: HostileBenchConfig


@dataclass
class Measured:
    """Latencies in ms of requests that were answered with 200, and how many were not."""

    ms: list[float] = field(default_factory=list)
    failed: int = 0

    def quantile(self, share: float) -> float:
        return float(np.quantile(self.ms, share)) if self.ms else float("nan")


@dataclass
class Rounds:
    """What was measured, a value for each round: each client's requests, and the CPU time of a server that nobody asks,
    in % of a core.
    """

    clients: dict[Client, list[Measured]] = field(default_factory=lambda: {client: [] for client in CLIENTS})
    cpu: list[float] = field(default_factory=list)


async def measure(load: LiveLoad) -> dict[Client, Measured]:
    """Ask as each client, one after the other."""
    fields = {"observation": observation(load.obs_dim), "num_candidates": BUDGET[0], "num_steps": BUDGET[1]}
    request = encode_request("POST", "/act", json.dumps(fields).encode())
    periods: Mapping[Client, float] = {"robot": 1 / load.config.hz, "closed loop": 0.0}
    return {client: await _ask(load, request, periods[client]) for client in CLIENTS}


async def _ask(load: LiveLoad, request: bytes, period: float) -> Measured:
    """Ask every `period` seconds; 0: as soon as there is an answer."""
    found, now = Measured(), time.monotonic  # uvloop's clock has a resolution of 1 ms
    connection = await connect(load.url)
    begin = now()
    intended = begin
    while intended < begin + WARM_UP_SECONDS + load.config.seconds:
        response = await connection.send(request)
        if intended >= begin + WARM_UP_SECONDS:
            if response.status == 200:
                found.ms.append(1e3 * (now() - intended))
            else:
                found.failed += 1
        intended = intended + period if period else now()
        await asyncio.sleep(max(0.0, intended - now()))
    connection.close()
    return found


@contextmanager
def beside(kind: Hostile, url: str, count: int) -> Iterator[Callable[[], Counter[str]]]:
    """Context manager: holds `count` hostile connections from another process until its end.

    Yields a function that ends them and says what they were: by the status that a slow header got, and "open" for what
    was open at the end.

    Raises:
        RuntimeError: not all of them could be opened.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(kind, url, count, theirs), daemon=True)
    process.start()
    theirs.close()

    def end() -> Counter[str]:
        ours.send("end")
        found: Counter[str] = ours.recv()
        return found

    try:
        try:
            ours.recv()
        except EOFError:
            raise RuntimeError(f"the {count} connections of {kind} could not be opened") from None
        yield end
    finally:
        process.kill()
        process.join()


def _hold(kind: Hostile, url: str, count: int, pipe: Pipe) -> None:
    import uvloop

    uvloop.run(_hold_open(kind, url, count, pipe))


async def _hold_open(kind: Hostile, url: str, count: int, pipe: Pipe) -> None:
    opening, opened = asyncio.Semaphore(CONNECTING), asyncio.Event()
    found: Counter[str] = Counter()
    hold = _idle_websocket if kind == "idle websockets" else _slow_headers

    def one_opened() -> None:
        found["open"] += 1
        if found["open"] == count:
            opened.set()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(hold(url, opening, one_opened, found)) for _ in range(count)]
        await opened.wait()
        pipe.send("ready")
        await asyncio.to_thread(pipe.recv)
        pipe.send(found)
        for task in tasks:
            task.cancel()


async def _idle_websocket(
    url: str, opening: asyncio.Semaphore, opened: Callable[[], None], found: Counter[str]
) -> None:
    from websockets.asyncio.client import connect as connect_websocket

    async with opening:
        uri = url.replace("http", "ws", 1) + "/openpi"
        session = await connect_websocket(uri, compression=None, proxy=None, ping_interval=None)
        await session.recv()
        opened()
    await session.wait_closed()
    found["open"] -= 1
    found["closed"] += 1


async def _slow_headers(url: str, opening: asyncio.Semaphore, opened: Callable[[], None], found: Counter[str]) -> None:
    address = urlsplit(url)
    first = True
    while True:
        async with opening:
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
        if first:
            opened()
            first = False
        writer.write(b"POST /act HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        answer = asyncio.ensure_future(reader.read())
        while not (await asyncio.wait([answer], timeout=BYTE_SECONDS))[0]:
            writer.write(b"x")
        writer.close()
        found[_status(answer)] += 1


def _status(answer: asyncio.Future[bytes]) -> str:
    try:
        return answer.result().split(b" ", 2)[1].decode()
    except (OSError, IndexError):
        return "reset"  # a byte came after the server had closed


def run(config: HostileBenchConfig) -> dict[str, Any]:
    """Measure. Returns the report that `--json` writes.

    Raises:
        CheckpointError: `model` is not a policy.
        RuntimeError: the server did not start, or did not take all hostile connections.
    """
    spec = load_policy(config.model).spec
    counts: Mapping[Hostile, int] = {"idle websockets": config.websockets, "slow headers": config.slow}
    alone = {kind: Rounds() for kind in counts}
    crowded = {kind: Rounds() for kind in counts}
    ends: dict[Hostile, Counter[str]] = {kind: Counter() for kind in counts}
    flags = ("--threads", str(config.threads), "--request-seconds", str(config.request_seconds), *NO_GRACE)
    with serving(sorl_serve(config.model, *flags)) as server:
        load = LiveLoad(server.url, spec.obs_dim, config)
        for number in range(config.rounds):
            for kind, count in counts.items():
                for hostile in (False, True) if number % 2 == 0 else (True, False):
                    if hostile:
                        with beside(kind, server.url, count) as end:
                            _measure(load, server.pid, crowded[kind])
                            ends[kind] += end()
                    else:
                        _measure(load, server.pid, alone[kind])
    rows = [
        row_of(kind, counts[kind], client, alone[kind].clients[client], crowded[kind].clients[client], ends[kind])
        for kind in counts
        for client in CLIENTS
    ]
    cpu = [
        {
            "beside": f"{count:,} {kind}",
            "CPU % alone": statistics.median(alone[kind].cpu),
            "CPU % beside": statistics.median(crowded[kind].cpu),
        }
        for kind, count in counts.items()
    ]
    return {"machine": describe(), "rounds": config.rounds, "hz": config.hz, "rows": rows, "cpu": cpu}


def _measure(load: LiveLoad, pid: int, found: Rounds) -> None:
    begin = _cpu_seconds(pid)
    time.sleep(load.config.seconds)
    found.cpu.append(100 * (_cpu_seconds(pid) - begin) / load.config.seconds)
    with in_own_process(measure, load) as running:
        for client, measured in running.result().items():
            found.clients[client].append(measured)


def _cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, that of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def row_of(
    kind: Hostile, count: int, client: Client, alone: list[Measured], crowded: list[Measured], ends: Counter[str]
) -> dict[str, Any]:
    """The table's row: medians of the rounds' quantiles in ms, and what became of the hostile connections in all."""
    p50, p99, p50_beside, p99_beside = (
        statistics.median(measured.quantile(share) for measured in rounds)
        for rounds in (alone, crowded)
        for share in (0.5, 0.99)
    )
    return {
        "beside": f"{count:,} {kind}",
        "client": client,
        "requests": sum(len(measured.ms) for measured in crowded),
        "failed": sum(measured.failed for measured in (*alone, *crowded)),
        "p50 alone ms": p50,
        "p50 beside ms": p50_beside,
        "p99 alone ms": p99,
        "p99 beside ms": p99_beside,
        "ratio": p99_beside / p99,
        "met": "yes" if p99_beside <= AIM * p99 else "no",
        "hostile": ", ".join(f"{number:,} {end}" for end, number in sorted(ends.items()) if number),
    }


def print_report(report: dict[str, Any]) -> None:
    print(f"{report['machine']}; load on the same cores; {report['rounds']} rounds, medians")
    print(f"clients ask for {BUDGET}; robot at {report['hz']:g} Hz")
    print_table(report["rows"])
    print("\nCPU time of a server that nobody asks, % of a core")
    print_table(report["cpu"])


def failed(report: dict[str, Any]) -> bool:
    """Whether a request failed, or a hostile connection got something else than it should."""
    ends = {end.split()[1] for row in report["rows"] for end in row["hostile"].split(", ")}
    return not ends <= {"open", "408", "reset"} or any(row["failed"] for row in report["rows"])


def main(arguments: list[str]) -> int:
    """See `HostileBenchConfig`."""
    return run_subcommand("hostile", HostileBenchConfig, arguments, run, print_report, failed)
