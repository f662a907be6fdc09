"""Clients that send each request until it has a final reply. Retries are safe, since /act has no side effects."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from bench.drill.ledger import Answer, Ledger
from bench.drill.plan import DrillRequest
from bench.protocols import Connection, ServerAddress

if TYPE_CHECKING:
    from sorl_client.retry import RetryPolicy

PATIENCE_S = 60.0
"""Seconds after which a request without a reply counts as lost."""


async def send_all(
    at: ServerAddress, requests: Iterable[DrillRequest], obs_dim: int, ledger: Ledger, clients: int = 32
) -> None:
    """Send every request to the server, `clients` at a time, and record the replies in `ledger`.

    The addresses must stay the same while the server is restarted.
    """
    remaining = iter(requests)
    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(_Client(at, obs_dim, ledger, number).send_each(remaining))


class _GaveUp(Exception):
    """A request has no final reply, and is not sent again."""


class _Client:
    """A client with one request in flight. It has a connection for each transport, which it keeps between requests."""

    def __init__(self, at: ServerAddress, obs_dim: int, ledger: Ledger, number: int) -> None:
        self._at = at
        self._obs_dim = obs_dim
        self._ledger = ledger
        self._random = random.Random(number)
        self._retry = retry_policy()
        self._connections: dict[str, Connection] = {}
        self.now = asyncio.get_running_loop().time

    async def send_each(self, requests: Iterator[DrillRequest]) -> None:
        for request in requests:
            try:
                if request.kind == "hang-up":
                    await self._hang_up(request)
                await self._send(request)
            except _GaveUp as reason:
                self._drop(request)
                self._ledger.gave_up(request, str(reason))
        for transport in [*self._connections]:
            self._close(transport)

    async def _send(self, request: DrillRequest) -> None:
        encoded = request.encode(self._obs_dim)
        failures = 0
        while True:
            self._ledger.counts["attempts"] += 1
            after: float | None = None
            try:
                async with asyncio.timeout(PATIENCE_S):
                    connection = await self._connected(request)
                    sent = self.now()
                    raw = await connection.send(encoded)
                received = self.now()
                reply = request.wire.read(raw)
                if reply.status != 503:
                    self._ledger.answered(Answer(request, reply, sent, received))
                    return
                self._ledger.counts["answers 503"] += 1
                why = "503"
                after = None if reply.retry_after_ms is None else reply.retry_after_ms / 1e3
            except TimeoutError:
                raise _GaveUp(f"no reply in {PATIENCE_S:g} s") from None
            except OSError as error:
                self._ledger.counts["connections refused or broken"] += 1
                why = str(error)
            failures += 1
            await self._back_off(failures, why, after)

    async def _hang_up(self, request: DrillRequest) -> None:
        """Disconnect in the middle of the request (even numbers), or after the whole of it."""
        encoded = request.encode(self._obs_dim)
        failures = 0
        while True:
            try:
                connection = await self._connected(request)
                break
            except OSError as error:
                failures += 1
                await self._back_off(failures, str(error))
        await connection.abandon(encoded, whole=bool(request.number % 2))
        self._ledger.counts["hang-ups"] += 1
        self._drop(request)

    async def _back_off(self, failures: int, why: str, after: float | None = None) -> None:
        wait = self._retry.wait_s(failures - 1, after, self._random.random)
        if wait is None:
            raise _GaveUp(f"{failures} failed attempts, the last one: {why}")
        await asyncio.sleep(wait)

    async def _connected(self, request: DrillRequest) -> Connection:
        connection = self._connections.get(request.wire.transport)
        if connection is None or not connection.usable:
            self._drop(request)
            self._connections[request.wire.transport] = connection = await request.wire.connect(self._at)
        return connection

    def _drop(self, request: DrillRequest) -> None:
        """Close the connection of the request's protocol, if there is one."""
        self._close(request.wire.transport)

    def _close(self, transport: str) -> None:
        if (connection := self._connections.pop(transport, None)) is not None:
            self._ledger.counts["surplus answers"] += connection.surplus
            connection.close()


def retry_policy() -> RetryPolicy:
    """The retry policy of `sorl_client`, with enough attempts to outlast a restart."""
    from sorl_client.retry import RetryPolicy

    return RetryPolicy(attempts=200)
