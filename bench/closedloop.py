"""Closed-loop load in every protocol: each client sends its next request when it has the answer to the last one.

The request is encoded once, and answers are only glanced at, in every protocol: what is left of the client is what its
connection takes. It uses callbacks in place of tasks, as `bench.openloop` does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.generator import in_own_process
from bench.process import cpu_seconds
from bench.protocols import PROTOCOLS, Ask, Connection, ProtocolName, Reply, ServerAddress

WARM_UP_SECONDS = 0.2
"""Of every turn."""


@dataclass(frozen=True)
class ClosedLoad:
    """The load on a server, by several protocols in turn.

    Attributes:
        protocols: they are measured one after another, `turns` times, in reversed order every second time. Turns are
            short, so that what else a shared machine does meets all of them alike.
        ask: what every request asks.
        clients: how many ask at a time, each over a connection of its own.
        seconds: duration of a protocol's turn, after `WARM_UP_SECONDS`.
        turns: of each protocol.
        server: the server's process id, whose CPU time is measured.
    """

    protocols: tuple[ProtocolName, ...]
    at: ServerAddress
    ask: Ask
    clients: int
    seconds: float
    turns: int
    server: int


Figures = dict[str, float]
"""Of a turn: "requests/s" answered with an action; "p50 ms" and "p99 ms" of these; "failed": other answers and broken
connections; "server us" and "client us": CPU time a request."""


def measure(load: ClosedLoad) -> dict[ProtocolName, list[Figures]]:
    """Send `load` from another process. Returns the figures of every turn.

    Raises:
        RuntimeError: in some turn no request was answered with an action.
        OSError: a client could not connect.
    """
    with in_own_process(send, load) as running:
        return running.result()


async def send(load: ClosedLoad) -> dict[ProtocolName, list[Figures]]:
    """Send `load` from the running event loop. Returns and raises as `measure`."""
    found: dict[ProtocolName, list[Figures]] = {name: [] for name in load.protocols}
    for turn in range(load.turns):
        for name in load.protocols if turn % 2 == 0 else load.protocols[::-1]:
            found[name].append(await _turn(load, name))
    return found


async def _turn(load: ClosedLoad, name: ProtocolName) -> Figures:
    protocol = PROTOCOLS[name]
    connections = [await protocol.connect(load.at) for _ in range(load.clients)]
    clients = _Clients(protocol.encode(load.ask), protocol.is_action)
    for connection in connections:
        clients.ask(connection)
    await asyncio.sleep(WARM_UP_SECONDS)
    clients.latencies.clear()
    clients.failed = 0
    before = clients.now(), cpu_seconds(load.server), time.process_time()
    await asyncio.sleep(load.seconds)
    after = clients.now(), cpu_seconds(load.server), time.process_time()
    latencies, failed = [*clients.latencies], clients.failed
    await clients.stop()
    for connection in connections:
        connection.close()
    if not latencies:
        raise RuntimeError(f"{name}: no action in {load.seconds:g} s; {failed} failed")
    seconds, server, client = (end - begin for begin, end in zip(before, after, strict=True))
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
    def __init__(self, request: bytes, is_action: Callable[[Any], bool]) -> None:
        self.latencies: list[float] = []
        self.failed = 0
        self.now = time.perf_counter  # uvloop's clock has a resolution of 1 ms
        self._request = request
        self._is_action = is_action
        self._in_flight = 0
        self._stopped: asyncio.Future[None] | None = None

    def ask(self, connection: Connection) -> None:
        """Send the request over `connection`, again and again until that is lost, or `stop`."""
        sent = self.now()
        self._in_flight += 1

        def answered(answer: Any) -> None:
            self._in_flight -= 1
            if isinstance(answer, ConnectionError) or not self._is_action(answer):
                self.failed += 1
            else:
                self.latencies.append(self.now() - sent)
            if self._stopped is None and connection.usable:
                self.ask(connection)
            elif self._stopped is not None and self._in_flight == 0:
                self._stopped.set_result(None)

        connection.ask(self._request, answered)

    async def stop(self) -> None:
        """Return when the last requests are answered: the next turn's are not to wait for them."""
        if self._in_flight:
            self._stopped = asyncio.get_running_loop().create_future()
            await self._stopped
