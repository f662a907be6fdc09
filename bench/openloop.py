"""Open-loop load: requests are sent at the times of a Poisson process, independent of the server's responses.

A closed loop sends less to a slow server, so it never builds the queue that real robots would. Here latency counts from
the intended send time, which includes delays of the server and of the generator (no coordinated omission). The
generator's own lag is part of the result.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.connection import Connection, Response, connect, encode_request
from bench.generator import in_own_process

TRANSIT_MS = 1.0
"""Milliseconds of its deadline that a client reserves for the network, as `sorl_client` does before its first reply."""
TICK_SECONDS = 0.001
"""The polling period of the generator's process. Waking for every response would take three times as much CPU from the
server's cores (at 1,750 requests/s, on a virtual machine). Latencies may be overstated by up to this, never
understated."""
LEAD_SECONDS = 0.1
"""Seconds from the start of the generator to time zero of the arrivals."""


class GeneratorTooSlow(RuntimeError):
    """The generator was too late, so the latencies would not be the server's."""


@dataclass(frozen=True)
class OpenLoad:
    """The load on a server.

    Attributes:
        url: the server's URL; requests go to POST /act.
        body: the fields of every request.
        rate: mean requests/s.
        seconds: duration of sending.
        deadline_ms: deadline from a request's intended time; each request has the time left of it when it is sent.
        give_up_ms: time from the intended time after which the client closes the connection.
        seed: seed of the arrival times.
        max_connections: the most requests in flight.
        transit_ms: what a client keeps back from its deadline for the network.
    """

    url: str
    body: Mapping[str, Any]
    rate: float
    seconds: float
    deadline_ms: float | None = None
    give_up_ms: float = 1000.0
    seed: int = 0
    max_connections: int = 8192
    transit_ms: float = TRANSIT_MS


@dataclass(frozen=True)
class Samples:
    """The results of R requests, in order of their intended times.

    Attributes:
        intended: (R,), the intended send time, in seconds from the start.
        lag: (R,), seconds by which the generator sent it late.
        latency: (R,), seconds from the intended time to the response; infinite without one.
        status: (R,), HTTP status; 0 if the connection broke or the client gave up, -1 if it was not sent.
        num_candidates, num_steps: (R,), as granted; 0 if the status is not 200.
    """

    intended: NDArray[np.float64]
    lag: NDArray[np.float64]
    latency: NDArray[np.float64]
    status: NDArray[np.int16]
    num_candidates: NDArray[np.int32]
    num_steps: NDArray[np.int32]

    @classmethod
    def unanswered(cls, intended: NDArray[np.float64]) -> Samples:
        count = len(intended)
        return cls(
            intended,
            np.zeros(count),
            np.full(count, np.inf),
            np.full(count, -1, np.int16),
            np.zeros(count, np.int32),
            np.zeros(count, np.int32),
        )

    def lag_ms(self, quantile: float) -> float:
        return 1e3 * _quantile(self.lag, quantile)

    def latency_ms(self, quantile: float) -> float | None:
        """The quantile of latency in ms, over responses with status 200; None without any."""
        ok = self.latency[self.status == 200]
        return 1e3 * _quantile(ok, quantile) if len(ok) else None

    def met(self, deadline_ms: float) -> NDArray[np.bool_]:
        """(R,): whether the status is 200 and the latency within the deadline, by the client's clock."""
        found: NDArray[np.bool_] = (self.status == 200) & (self.latency <= deadline_ms / 1e3)
        return found

    def check(self, max_lag_ms: float) -> Samples:
        """Return these samples if the generator was fast enough.

        Raises:
            GeneratorTooSlow: the p99 of its lag is above `max_lag_ms`, or a request was not sent.
        """
        if unsent := int((self.status == -1).sum()):
            raise GeneratorTooSlow(f"{unsent} of {len(self.status)} requests found no free connection")
        if (lag := self.lag_ms(0.99)) > max_lag_ms:
            raise GeneratorTooSlow(f"the generator's lag was {lag:.1f} ms at p99 (limit {max_lag_ms:g} ms)")
        return self


def poisson_arrivals(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Arrival times in [0, seconds) of a Poisson process of `rate` per second, ascending.

    Raises:
        ValueError: rate or seconds are not positive.
    """
    if not (rate > 0 and seconds > 0):
        raise ValueError(f"rate and seconds must be positive, got {rate} and {seconds}")
    generator = np.random.default_rng(seed)
    # Given their number, a Poisson process's arrivals are independent and uniform.
    return np.sort(generator.uniform(0.0, seconds, generator.poisson(rate * seconds)))


def measure(load: OpenLoad, meanwhile: Callable[[], None] = lambda: None, every_s: float = 1.0) -> Samples:
    """Send `load` from another process, and call `meanwhile` every `every_s` seconds until it has ended."""
    with in_own_process(partial(send, tick=TICK_SECONDS), load) as running:
        while not wait([running], timeout=every_s).done:
            meanwhile()
        return running.result()


async def send(load: OpenLoad, tick: float = 0.0) -> Samples:
    """Send `load` from the running event loop. Returns when every request has a response or was given up.

    With `tick` > 0, in seconds, the loop polls: it receives responses and sends due requests at the end of each tick.
    """
    samples = Samples.unanswered(poisson_arrivals(load.rate, load.seconds, load.seed))
    sender = _Sender(load, samples)
    for index, intended in enumerate(samples.intended.tolist()):
        while (early := sender.start + intended - sender.now()) > 0:
            if tick:
                time.sleep(tick)
                await asyncio.sleep(0)
            else:
                await asyncio.sleep(early)
        sender.send(index, intended, -early)
        await asyncio.sleep(0)  # else requests that are due together would all wait until the last is encoded
    await sender.settle()
    return samples


class _Sender:
    """Sends requests and records results, by callbacks instead of tasks: 0.09 instead of 0.24 ms of CPU time a request,
    which the server on the same cores would lose."""

    def __init__(self, load: OpenLoad, samples: Samples) -> None:
        self._load = load
        self._samples = samples
        self._give_up = load.give_up_ms / 1e3
        self._fixed = json.dumps(dict(load.body))[:-1]
        self._idle: list[Connection] = []
        self._unanswered: dict[int, Connection | None] = {}  # by index, in order; None: not connected yet
        self._connecting: set[asyncio.Task[None]] = set()
        self.now = time.monotonic  # uvloop's clock has a resolution of 1 ms
        self.start = self.now() + LEAD_SECONDS
        self._request = encode_request("POST", "/act", self._body(0.0))

    def send(self, index: int, intended: float, lag: float) -> None:
        """Send request `index`; its result goes to the samples."""
        self._samples.lag[index] = lag
        self._drop_late()
        if len(self._unanswered) >= self._load.max_connections:
            return
        self._samples.status[index] = 0
        self._unanswered[index] = None
        while self._idle:
            if (connection := self._idle.pop()).usable:
                self._ask(connection, index, intended)
                return
        task = asyncio.ensure_future(self._connect(index, intended))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def settle(self) -> None:
        """Wait until every request has a response or was given up, then close all connections."""
        while self._unanswered:
            await asyncio.sleep(0.001)
            self._drop_late()
        if self._connecting:
            await asyncio.wait(self._connecting)
        for connection in self._idle:
            connection.close()

    async def _connect(self, index: int, intended: float) -> None:
        try:
            connection = await connect(self._load.url)
        except OSError:
            self._unanswered.pop(index, None)
            return
        if index in self._unanswered:
            self._ask(connection, index, intended)
        else:  # given up meanwhile
            self._idle.append(connection)

    def _ask(self, connection: Connection, index: int, intended: float) -> None:
        samples = self._samples

        def answered(answer: Response | ConnectionError) -> None:
            latency = self.now() - self.start - intended
            if self._unanswered.pop(index, None) is None or isinstance(answer, ConnectionError):
                return
            samples.latency[index] = latency
            samples.status[index] = answer.status
            if answer.status == 200:
                reply = answer.json()
                samples.num_candidates[index] = reply.get("num_candidates", 0)
                samples.num_steps[index] = reply.get("num_steps", 0)
            if connection.usable:
                self._idle.append(connection)

        self._unanswered[index] = connection
        body = self._body(intended)
        connection.ask(self._request[: -len(body)] + body, answered)

    def _drop_late(self) -> None:
        """Give up requests older than `give_up_ms`: close their connections."""
        limit = self.now() - self.start - self._give_up
        while self._unanswered:
            index = next(iter(self._unanswered))
            if self._samples.intended[index] > limit:
                return
            if (connection := self._unanswered.pop(index)) is not None:
                connection.close()

    def _body(self, intended: float) -> bytes:
        if self._load.deadline_ms is None:
            return f"{self._fixed}}}".encode()
        left = self._load.deadline_ms - 1e3 * (self.now() - self.start - intended) - self._load.transit_ms
        return (
            f'{self._fixed}, "deadline_ms": {max(left, 0.01):12.3f}}}'.encode()
        )  # a fixed width keeps Content-Length the same


def _quantile(values: NDArray[np.float64], share: float) -> float:
    """The quantile by nearest rank, so it is a measured value."""
    return float(np.quantile(values, share, method="inverted_cdf")) if len(values) else 0.0
