"""Overload in simulated time: deadlines, admission, queue and worker before an engine that is noisy and slower than
predicted, with three times the requests that it can compute, in an open loop.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import pytest

from service.budget import Admission, CostModel, Limits
from service.errors import DeadlineExceeded, Overloaded
from service.sample import RequestPart, SampleRequest
from service.scheduling import Deadlines, Job, Scheduler
from service.timing import BatchSize, CostEstimate
from tests.policies import random_policy

DEADLINE = 0.05
N, M = 32, 4
ROW_STEP, CALL = 10e-6, 70e-6  # seconds: a request takes 1.28 ms
SECONDS = 10.0
SETTLED = 2.0  # until then the law may learn what this engine is like


class Timer:
    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """Simulated time, as the scheduler sees its event loop and its clock; events come in order, one at a time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()

    def __call__(self) -> float:
        return self.now

    def create_future(self) -> Future[Any]:
        return Future()

    def call_later(self, delay: float, call: Callable[..., None], *arguments: Any) -> Timer:
        timer = Timer(partial(call, *arguments))
        heapq.heappush(self._events, (self.now + delay, next(self._numbers), timer))
        return timer

    def call_soon_threadsafe(self, call: Callable[..., None], *arguments: Any) -> None:
        call(*arguments)

    def advance(self, until: float) -> None:
        """Whatever happens up to `until`."""
        while self._events and self._events[0][0] <= until:
            self.now, _, timer = heapq.heappop(self._events)
            if not timer.cancelled:
                timer.call()
        self.now = until

    def next_event(self) -> float:
        return self._events[0][0]


@dataclass
class Counts:
    """Of requests that came once the law had settled."""

    answered: int = 0
    answered_in_time: int = 0
    refused: int = 0
    refused_in_time: int = 0


class Simulation:
    """Poisson arrivals of exact (N, M) with a deadline; batches take what is predicted times `slowness` and noise."""

    def __init__(self, on_late: Literal["degrade", "reject"] = "reject", slowness: float = 1.5, seed: int = 0) -> None:
        self.loop = Loop()
        self.cost = CostModel(self.loop)
        grid = [BatchSize(b, b * n * m, b * n) for b in (1, 2) for n in (1, 32) for m in (1, 8)]
        self.cost.fit((batch, CALL + ROW_STEP * batch.actor_rows) for batch in grid)
        spec = random_policy(denoise_timesteps=8).spec
        limits = Limits(max_candidates=64, max_steps=8, max_batch=1, max_returned=64, max_seconds=5.0)
        self.admission = Admission(spec, limits, self.cost)
        self.observation = np.zeros((1, spec.obs_dim), np.float32)
        self.on_late: Literal["degrade", "reject"] = on_late
        self.slowness = slowness
        self.random = np.random.default_rng(seed)
        self.counts = Counts()
        self.scheduler = Scheduler(
            slice_seconds=0.005,
            max_batch_rows=1024,
            max_queue_seconds=5.0,
            aging_seconds=1.0,
            clock=self.loop,
        )
        self.scheduler._loop = cast(Any, self.loop)
        self.deadlines = Deadlines(self.scheduler.backlog, self.loop)

    def offer(self, rate: float, seconds: float = SECONDS) -> Counts:
        """Offer `rate` requests/s for so long."""
        self.counts = Counts()
        start = self.loop.now
        for time in np.sort(self.random.uniform(0, seconds, self.random.poisson(rate * seconds))):
            self.loop.call_later(float(time), self._arrive, time >= SETTLED)
        while self.loop.now < start + seconds:
            if self.scheduler.queued:
                self.scheduler._run_next()
            else:
                self.loop.advance(self.loop.next_event())
            if not self.loop._events:
                break
        return self.counts

    def estimate(self, request: SampleRequest) -> CostEstimate:
        """As an engine of the scheduler's."""
        return self.cost.estimate(1, request.num_candidates, request.num_steps)

    def run(self, parts: list[RequestPart]) -> list[object]:
        rows = [part.stop - part.start for part in parts]
        steps = sum(count * part.request.num_steps for count, part in zip(rows, parts, strict=True))
        batch = BatchSize(len(parts), steps, sum(rows))
        seconds = self.slowness * (CALL + ROW_STEP * steps) * self._noise()
        self.loop.advance(self.loop.now + seconds)
        self.cost.observe(batch, seconds)
        return [self.loop.now] * len(parts)

    def _noise(self) -> float:
        """Mean 1.08: each batch by its own, and one in a hundred stalls."""
        return float(self.random.lognormal(0.0, 0.3)) * (5.0 if self.random.random() < 0.01 else 1.0)

    def _arrive(self, counted: bool) -> None:
        deadline = self.loop.now + DEADLINE
        given = self.deadlines.deadline(self.loop.now, DEADLINE * 1e3)
        time = self.deadlines.time_left(given, 5)
        try:
            grant = self.admission.grant(1, N, M, time=time, on_late=self.on_late)
            request = SampleRequest(self.observation, grant.num_candidates, grant.num_steps, np.zeros(1, np.uint64))
            reduce = self.admission.reduced if self.on_late == "degrade" else None
            job = self.scheduler.submit(request, self, 5, given, reduce_budget=reduce)
        except (DeadlineExceeded, Overloaded):
            self._reply(None, deadline, counted)
        else:
            job.future.add_done_callback(lambda _: self._reply(job, deadline, counted))

    def _reply(self, job: Job | None, deadline: float, counted: bool) -> None:
        delay = float(self.random.gamma(4.0, 0.25e-3))  # until the client has it
        self.loop.call_later(delay, self._replied, job, deadline, counted)

    def _replied(self, job: Job | None, deadline: float, counted: bool) -> None:
        in_time = self.loop.now <= deadline
        if job is None or job.future.exception() is not None:
            self.counts.refused += counted
            self.counts.refused_in_time += counted and in_time
        else:
            self.deadlines.observe_reply(self.loop.now - job.times.finished)
            self.counts.answered += counted
            self.counts.answered_in_time += counted and in_time


def capacity(slowness: float) -> float:
    """Requests/s in batches of five predicted milliseconds."""
    noise = float(np.exp(0.3**2 / 2)) * 1.04
    return 1 / (slowness * noise * (ROW_STEP * N * M + CALL / 2))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("slowness", [0.7, 1.5, 4.0])
def test_what_is_accepted_is_in_time_and_the_engine_never_idles(slowness: float, seed: int) -> None:
    counts = Simulation("reject", slowness, seed).offer(3 * capacity(slowness))
    assert counts.answered_in_time / (SECONDS - SETTLED) >= 0.9 * capacity(slowness)
    assert counts.answered_in_time >= 0.99 * counts.answered
    assert counts.refused_in_time >= 0.99 * counts.refused > 0


@pytest.mark.parametrize("slowness", [0.7, 4.0])
def test_degrading_answers_nearly_everyone_in_time(slowness: float) -> None:
    """What a stall of the engine catches can no longer be degraded, and is not refused."""
    counts = Simulation("degrade", slowness).offer(3 * capacity(slowness))
    assert counts.answered_in_time >= 0.98 * (counts.answered + counts.refused) > 0


def test_after_an_engine_stood_still_it_serves_as_before() -> None:
    """Everything is late for a second; what was learned from that must not keep requests out."""
    simulation = Simulation(slowness=1.0)
    rate = 0.5 * capacity(1.0)
    simulation.slowness = 1000.0
    simulation.offer(rate, 1.0)
    simulation.slowness = 1.0
    simulation.loop.advance(simulation.loop.now + 5.0)
    counts = simulation.offer(rate)
    assert counts.answered_in_time >= 0.99 * (counts.answered + counts.refused) > 0
