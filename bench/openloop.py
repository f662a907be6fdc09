"""Load that does not wait for answers: requests leave at the times of a Poisson process, whatever the server does.

A closed loop sends less to a slow server and so never sees the queue that real robots would stand in. Here latency
counts from the moment a request was meant to leave, so neither a stalled server nor a late generator can flatter the
figures; and how late the generator was is part of the result.
"""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.connection import Connection, Response, connect, encode_request

TRANSIT_MS = 1.0
"""What a client keeps back of its deadline for the way there and back, as `sorl_client` does."""
TICK_SECONDS = 0.001
"""How often a process of its own looks up. To wake for every answer, too, would cost it three times as much of a core
that the server needs (at 1,750 requests/s, on a virtual machine); latencies may come out longer by as much, never
shorter."""
LEAD_SECONDS = 0.1
"""From the generator being ready to its process's time zero."""


class GeneratorTooSlow(RuntimeError):
    """The figures would be the generator's, not the server's."""


@dataclass(frozen=True)
class OpenLoad:
    """What to send.

    Attributes:
        url: of the server; requests go to POST /act there.
        body: a request's fields.
        rate: requests/s, on average.
        seconds: how long requests keep leaving.
        deadline_ms: from a request's intended time; the server is told what is left of it when it is sent.
        give_up_ms: from the intended time; then the client hangs up.
        seed: of the arrivals.
        max_connections: at most this many requests unanswered at a time.
    """

    url: str
    body: Mapping[str, Any]
    rate: float
    seconds: float
    deadline_ms: float | None = None
    give_up_ms: float = 1000.0
    seed: int = 0
    max_connections: int = 8192


@dataclass(frozen=True)
class Samples:
    """What became of R requests, in order of their intended times.

    Attributes:
        intended: (R,) seconds from the start, when each was meant to leave.
        lag: (R,) seconds by which the generator was late with it.
        latency: (R,) seconds from the intended time to the answer; infinite without one.
        status: (R,) HTTP status; 0 where the connection broke or the client gave up, -1 where it was never sent.
        num_candidates, num_steps: (R,) as granted; 0 where the answer was not 200.
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
        """Of requests that were answered 200; None if none was."""
        ok = self.latency[self.status == 200]
        return 1e3 * _quantile(ok, quantile) if len(ok) else None

    def met(self, deadline_ms: float) -> NDArray[np.bool_]:
        """(R,): answered 200 within the deadline, as the client's clock has it."""
        found: NDArray[np.bool_] = (self.status == 200) & (self.latency <= deadline_ms / 1e3)
        return found

    def check(self, max_lag_ms: float) -> Samples:
        """Itself.

        Raises:
            GeneratorTooSlow: 1 % of requests or more left later than `max_lag_ms`, or some never left.
        """
        if unsent := int((self.status == -1).sum()):
            raise GeneratorTooSlow(f"{unsent} of {len(self.status)} requests found no free connection")
        if (lag := self.lag_ms(0.99)) > max_lag_ms:
            raise GeneratorTooSlow(f"the generator itself was {lag:.1f} ms late at p99 (limit {max_lag_ms:g} ms)")
        return self


def poisson_arrivals(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Times in [0, seconds) of a Poisson process of `rate` a second, ascending.

    Raises:
        ValueError: rate or seconds are not positive.
    """
    if not (rate > 0 and seconds > 0):
        raise ValueError(f"rate and seconds must be positive, got {rate} and {seconds}")
    generator = np.random.default_rng(seed)
    # Given their number, a Poisson process's arrivals are independent and uniform.
    return np.sort(generator.uniform(0.0, seconds, generator.poisson(rate * seconds)))


def measure(load: OpenLoad, meanwhile: Callable[[], None] = lambda: None, every_s: float = 1.0) -> Samples:
    """Send `load` from a process of its own; `meanwhile` is called every `every_s` seconds until it has ended."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = pool.submit(_in_own_process, load)
        while not wait([running], timeout=every_s).done:
            meanwhile()
        return running.result()


def _in_own_process(load: OpenLoad) -> Samples:
    import uvloop

    gc.disable()  # its pauses would be lag
    with suppress(PermissionError):
        # On shared cores others' threads would otherwise hold it up for whole scheduler slices: p99 of its lag was 8 ms
        # beside eight busy processes on two cores, 12 with nice -10 (which autogroups undo), and 1 with this.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    return uvloop.run(send(load, TICK_SECONDS))


async def send(load: OpenLoad, tick: float = 0.0) -> Samples:
    """`load` from the running event loop; ends when every request has an answer or was given up.

    With a `tick`, in seconds, the loop does nothing in between: what came is seen, and what is due sent, at its end.
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
        await asyncio.sleep(0)  # else requests that are due at once would leave together, after the last one's encoding
    await sender.settle()
    return samples


class _Sender:
    """Callbacks and no tasks: 0.24 ms of CPU time a request were 0.09, which on shared cores are the server's."""

    def __init__(self, load: OpenLoad, samples: Samples) -> None:
        self._load = load
        self._samples = samples
        self._give_up = load.give_up_ms / 1e3
        self._fixed = json.dumps(dict(load.body))[:-1]
        self._idle: list[Connection] = []
        self._unanswered: dict[int, Connection | None] = {}  # by index, in order; None: not connected yet
        self._connecting: set[asyncio.Task[None]] = set()
        self.now = time.monotonic  # uvloop's own clock ticks in milliseconds
        self.start = self.now() + LEAD_SECONDS
        self._request = encode_request("POST", "/act", self._body(0.0))

    def send(self, index: int, intended: float, lag: float) -> None:
        """Send request `index` and note what becomes of it."""
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
        """Wait for the last answers, or give them up, and hang up."""
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
        """Hang up on those that have had their time."""
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
        left = self._load.deadline_ms - 1e3 * (self.now() - self.start - intended) - TRANSIT_MS
        return f'{self._fixed}, "deadline_ms": {max(left, 0.01):12.3f}}}'.encode()  # always as long, for Content-Length


def _quantile(values: NDArray[np.float64], share: float) -> float:
    """Nearest rank: a value that was really seen."""
    return float(np.quantile(values, share, method="inverted_cdf")) if len(values) else 0.0
