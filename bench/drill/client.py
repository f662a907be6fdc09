"""Clients that send each request until it has a final reply. Retries are safe, since /act has no side effects."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from bench.connection import Connection, Response, connect
from bench.drill.ledger import Answer, Ledger
from bench.drill.plan import DrillRequest

if TYPE_CHECKING:
    from sorl_client.retry import RetryPolicy

PATIENCE_S = 60.0
"""Seconds after which a request without a reply counts as lost."""


async def send_all(url: str, requests: Iterable[DrillRequest], obs_dim: int, ledger: Ledger, clients: int = 32) -> None:
    """Send every request to the server at `url`, `clients` at a time, and record the replies in `ledger`.

    `url` must stay the same while the server is restarted.
    """
    remaining = iter(requests)
    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(_Client(url, obs_dim, ledger, number).send_each(remaining))


class _GaveUp(Exception):
    """A request has no final reply, and is not sent again."""


class _Client:
    """A client with one connection, which it keeps between requests."""

    def __init__(self, url: str, obs_dim: int, ledger: Ledger, number: int) -> None:
        self._url = url
        self._obs_dim = obs_dim
        self._ledger = ledger
        self._random = random.Random(number)
        self._retry = retry_policy()
        self._connection: Connection | None = None
        self.now = asyncio.get_running_loop().time

    async def send_each(self, requests: Iterator[DrillRequest]) -> None:
        for request in requests:
            try:
                if request.kind == "hang-up":
                    await self._hang_up(request)
                await self._send(request)
            except _GaveUp as reason:
                self._drop()
                self._ledger.gave_up(request, str(reason))
        self._drop()

    async def _send(self, request: DrillRequest) -> None:
        encoded = request.encode(self._obs_dim)
        failures = 0
        while True:
            self._ledger.counts["attempts"] += 1
            after: float | None = None
            try:
                connection = await self._connected()
                sent = self.now()
                response = await asyncio.wait_for(connection.send(encoded), PATIENCE_S)
                if response.status != 503:
                    self._ledger.answered(Answer(request, response, sent, self.now()))
                    return
                self._ledger.counts["answers 503"] += 1
                why, after = "503", retry_after_s(response)
            except TimeoutError:
                raise _GaveUp(f"no reply in {PATIENCE_S:g} s on an open connection") from None
            except OSError as error:
                self._ledger.counts["connections refused or broken"] += 1
                why = str(error)
            failures += 1
            await self._back_off(failures, why, after)

    async def _hang_up(self, request: DrillRequest) -> None:
        """Disconnect in the middle of the body (requests of even number), or after the whole request."""
        encoded = request.encode(self._obs_dim)
        failures = 0
        while True:
            try:
                connection = await self._connected()
                break
            except OSError as error:
                failures += 1
                await self._back_off(failures, str(error))
        answer = connection.send(encoded if request.number % 2 else encoded[: len(encoded) - 20])
        await asyncio.sleep(0)  # so that the bytes are sent before the connection is closed
        answer.cancel()
        self._ledger.counts["hang-ups"] += 1
        self._drop()

    async def _back_off(self, failures: int, why: str, after: float | None = None) -> None:
        wait = self._retry.wait_s(failures - 1, after, self._random.random)
        if wait is None:
            raise _GaveUp(f"{failures} failed attempts, the last one: {why}")
        await asyncio.sleep(wait)

    async def _connected(self) -> Connection:
        if self._connection is None or not self._connection.usable:
            self._drop()
            self._connection = await connect(self._url)
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._ledger.counts["surplus answers"] += self._connection.surplus
            self._connection.close()
            self._connection = None


def retry_policy() -> RetryPolicy:
    """The retry policy of `sorl_client`, with enough attempts to outlast a restart."""
    from sorl_client.retry import RetryPolicy

    return RetryPolicy(attempts=200)


def retry_after_s(response: Response) -> float | None:
    """The retry time of a 503, in seconds: `retry_after_ms` of its problem document, else the Retry-After header."""
    try:
        return float(response.json()["retry_after_ms"]) / 1e3
    except (ValueError, KeyError, TypeError):
        given = response.headers.get("retry-after", "")
        return float(given) if given.isdecimal() else None
