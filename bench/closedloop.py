"""Closed-loop load in every protocol: each client sends its next request when it has the answer to the last one.

The request is encoded once, and answers are only glanced at, in every protocol: what is left of the client is what its
connection takes. It uses callbacks in place of tasks, as `bench.openloop` does.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.generator import in_own_process
from bench.process import cpu_seconds
from bench.protocols import PROTOCOLS, Ask, Connection, ProtocolName, Reply, ServerAddress

WARM_UP_SECONDS = 1.0


@dataclass(frozen=True)
class ClosedLoad:
    """The load on a server.

    Attributes:
        ask: what every request asks.
        clients: how many ask at a time, each over a connection of its own.
        seconds: duration, after `WARM_UP_SECONDS`.
        server: the server's process id, whose CPU time is measured.
    """

    protocol: ProtocolName
    at: ServerAddress
    ask: Ask
    clients: int
    seconds: float
    server: int


def measure(load: ClosedLoad) -> dict[str, float]:
    """Send `load` from another process.

    Returns:
        "requests/s" answered with an action; "p50 ms" and "p99 ms" of these; "failed": other answers and broken
        connections; "server us" and "client us": CPU time a request.

    Raises:
        RuntimeError: no request was answered with an action.
        OSError: a client could not connect.
    """
    with in_own_process(send, load) as running:
        return running.result()


async def send(load: ClosedLoad) -> dict[str, float]:
    """Send `load` from the running event loop. Returns and raises as `measure`."""
    protocol = PROTOCOLS[load.protocol]
    connections = [await protocol.connect(load.at) for _ in range(load.clients)]
    clients = _Clients(protocol.encode(load.ask), protocol.is_action)
    for connection in connections:
        clients.ask(connection)
    await asyncio.sleep(WARM_UP_SECONDS)
    clients.latencies.clear()
    clients.failed = 0
    begin = clients.now(), cpu_seconds(load.server), time.process_time()
    await asyncio.sleep(load.seconds)
    seconds, server, client = (
        after - before
        for before, after in zip(begin, (clients.now(), cpu_seconds(load.server), time.process_time()), strict=True)
    )
    latencies, failed = [*clients.latencies], clients.failed
    for connection in connections:
        connection.close()
    if not latencies:
        raise RuntimeError(f"{load.protocol}: no action in {seconds:.1f} s; {failed} failed")
    p50, p99 = np.quantile(latencies, (0.5, 0.99)).tolist()
    return {
        "requests/s": len(latencies) / seconds,
        "p50 ms": 1e3 * p50,
        "p99 ms": 1e3 * p99,
        "failed": failed,
        "server us": 1e6 * server / len(latencies),
        "client us": 1e6 * client / len(latencies),
    }


async def ask_once(protocol: ProtocolName, at: ServerAddress, ask: Ask) -> Reply:
    """The reply to one request. Raises OSError."""
    spoken = PROTOCOLS[protocol]
    connection = await spoken.connect(at)
    try:
        return spoken.read(await connection.send(spoken.encode(ask)))
    finally:
        connection.close()


class _Clients:
    def __init__(self, request: bytes, is_action: Any) -> None:
        self.latencies: list[float] = []
        self.failed = 0
        self.now = time.perf_counter  # uvloop's clock has a resolution of 1 ms
        self._request = request
        self._is_action = is_action

    def ask(self, connection: Connection) -> None:
        """Send the request over `connection`, again and again until that is lost."""
        sent = self.now()

        def answered(answer: Any) -> None:
            if isinstance(answer, ConnectionError) or not self._is_action(answer):
                self.failed += 1
            else:
                self.latencies.append(self.now() - sent)
            if connection.usable:
                self.ask(connection)

        connection.ask(self._request, answered)
