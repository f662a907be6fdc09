"""The scheduler alone: fake engines, a fake clock, no torch, no HTTP."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import DeadlineExceeded, EngineFailed, NonfiniteOutput, NotReady, Overloaded, ServiceError
from service.sample import RequestPart, SampleRequest
from service.scheduling.job import Job
from service.scheduling.scheduler import Scheduler
from service.timing import CostEstimate, Deadline
from tests.clock import Clock

pytestmark = pytest.mark.anyio
WAIT = 30


def work(number: int, rows: int = 1) -> SampleRequest:
    """A number to square; -1 raises, -2 is an error of its own, -3 ends the thread."""
    return SampleRequest(np.full((1, 1), number, np.float32), rows, 1, np.zeros(1, np.uint64))


def number_of(request: SampleRequest) -> int:
    return int(request.observation.item())


def by(moment: float) -> Deadline:
    """A deadline that leaves no time for the reply."""
    return Deadline(reply=moment, compute=moment)


class FakeEngine:
    """Squares numbers; batches wait while `gate` is shut. Notes what it was handed, and on which thread."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[int]] = []
        self.parts: list[list[tuple[int, int, int]]] = []
        self.threads: set[threading.Thread] = set()

    def estimate(self, request: SampleRequest) -> CostEstimate:
        """A second a row."""
        return CostEstimate(request.rows, per_row=1.0)

    def run(self, parts: list[RequestPart]) -> list[Any]:
        numbers = [number_of(part.request) for part in parts]
        self.batches.append(numbers)
        self.parts.append([(number_of(part.request), part.start, part.stop) for part in parts])
        self.threads.add(threading.current_thread())
        self.entered.release()
        assert self.gate.wait(WAIT)
        if -3 in numbers:
            raise SystemExit("a library ends the thread")
        if -1 in numbers:
            raise RuntimeError("device lost")
        return [self._result(part) for part in parts]

    @staticmethod
    def _result(part: RequestPart) -> int | list[int] | ServiceError:
        number = number_of(part.request)
        if number == -2:
            return NonfiniteOutput("row")
        rows = [*cast(list[int], part.partial or []), *range(part.start, part.stop)]
        if part.stop < part.request.rows:
            return rows
        assert rows == list(range(part.request.rows))  # each exactly once, in order
        return number**2

    async def busy(self) -> None:
        """Wait until a batch is inside."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=WAIT)


class Queue(Scheduler):
    """A scheduler before one engine; `put` submits to it."""

    def __init__(self, engine: FakeEngine, clock: Callable[[], float] | None = None, **changes: Any) -> None:
        limits = {"slice_seconds": 64.0, "max_batch_rows": 64, "max_queue_seconds": 1000.0, "aging_seconds": 1e6}
        super().__init__(clock=clock or Clock(), **{**limits, **changes})
        self.engine = engine

    def put(self, request: SampleRequest, *arguments: Any, **options: Any) -> Job:
        return self.submit(request, self.engine, *arguments, **options)


def make(engine: FakeEngine, clock: Callable[[], float] | None = None, **limits: Any) -> Queue:
    scheduler = Queue(engine, clock, **limits)
    scheduler.start()
    return scheduler


async def occupy(engine: FakeEngine, scheduler: Queue) -> Job:
    """Shut the gate with one job inside, so that what follows queues."""
    engine.gate.clear()
    job = scheduler.put(work(100))
    await engine.busy()
    return job


async def test_results_come_back_to_their_own_jobs() -> None:
    engine = FakeEngine()
    scheduler = make(engine)
    jobs = [scheduler.put(work(number)) for number in range(50)]
    assert await asyncio.gather(*(job.future for job in jobs)) == [number**2 for number in range(50)]
    assert await scheduler.drain(WAIT)
    assert engine.threads.isdisjoint({threading.current_thread()})
    assert len(engine.threads) == 1


async def test_what_arrives_while_a_batch_runs_forms_the_next_one() -> None:
    engine = FakeEngine()
    scheduler = make(engine)
    first = await occupy(engine, scheduler)
    jobs = [scheduler.put(work(number, 16)) for number in range(6)]
    engine.gate.set()
    await asyncio.gather(first.future, *(job.future for job in jobs))
    assert engine.batches == [[100], [0, 1, 2, 3], [4, 5]]
    await scheduler.drain(WAIT)


async def test_a_large_job_is_computed_in_parts_and_small_ones_pass_it() -> None:
    engine = FakeEngine()
    scheduler = make(engine)
    first = await occupy(engine, scheduler)
    large = scheduler.put(work(7, 200))
    small = [scheduler.put(work(number)) for number in range(2)]
    engine.gate.set()
    assert await asyncio.gather(first.future, large.future, *(job.future for job in small)) == [10_000, 49, 0, 1]
    assert engine.parts[1] == [(7, 0, 32), (0, 0, 1), (1, 0, 1)]
    assert engine.parts[2:] == [[(7, 32, 96)], [(7, 96, 160)], [(7, 160, 200)]]
    await scheduler.drain(WAIT)


async def test_priority_then_earliest_deadline_then_arrival() -> None:
    engine, clock = FakeEngine(), Clock()
    scheduler = make(engine, clock)
    await occupy(engine, scheduler)
    jobs = [
        scheduler.put(work(1), priority=5),
        scheduler.put(work(2), priority=5, deadline=by(clock.now + 900)),
        scheduler.put(work(3), priority=5, deadline=by(clock.now + 800)),
        scheduler.put(work(4), priority=9, deadline=by(clock.now + 700)),
        scheduler.put(work(5), priority=0),
        scheduler.put(work(6), priority=5),
    ]
    engine.gate.set()
    await asyncio.gather(*(job.future for job in jobs))
    assert engine.batches[1] == [5, 3, 2, 1, 6, 4]
    await scheduler.drain(WAIT)


async def test_deadline_that_passes_in_the_queue_costs_no_compute() -> None:
    engine, clock = FakeEngine(), Clock()
    scheduler = make(engine, clock)
    await occupy(engine, scheduler)
    late = scheduler.put(work(7), deadline=by(clock.now + 500))
    in_time = scheduler.put(work(8), deadline=by(clock.now + 501))
    clock.now += 500
    engine.gate.set()
    with pytest.raises(DeadlineExceeded, match="nothing was computed"):
        await late.future
    assert await in_time.future == 64
    assert engine.batches == [[100], [8]]
    with pytest.raises(DeadlineExceeded):
        scheduler.put(work(9), deadline=by(clock.now))
    await scheduler.drain(WAIT)


async def test_deadline_that_passes_between_parts_ends_the_job() -> None:
    engine, clock = FakeEngine(), Clock()
    scheduler = make(engine, clock)
    engine.gate.clear()
    job = scheduler.put(work(7, 200), deadline=by(clock.now + 500))
    await engine.busy()
    clock.now += 500
    engine.gate.set()
    with pytest.raises(DeadlineExceeded, match="while the request was computed"):
        await job.future
    assert engine.parts == [[(7, 0, 64)]]
    await scheduler.drain(WAIT)


async def test_deadline_is_answered_while_the_worker_is_still_busy() -> None:
    engine, clock = FakeEngine(), Clock()
    scheduler = make(engine, clock)
    running = await occupy(engine, scheduler)
    late = scheduler.put(work(7, 3), deadline=by(clock.now + 0.001))
    with pytest.raises(DeadlineExceeded):
        await late.future
    assert not running.future.done()
    assert scheduler.queued == scheduler.queued_seconds == 0
    engine.gate.set()
    assert await running.future == 10_000
    assert await scheduler.drain(WAIT)
    assert engine.batches == [[100]]


async def test_less_is_spent_when_the_queue_took_too_long() -> None:
    """Granted 6 rows for a due time 10 s away; the batch before takes 7 of them."""
    engine, clock = FakeEngine(), Clock()
    scheduler = make(engine, clock)
    running = await occupy(engine, scheduler)
    calls = []

    def reduce(request: SampleRequest, seconds: float, rows_done: int) -> SampleRequest:
        calls.append((request.rows, seconds, rows_done))
        return work(number_of(request), int(seconds))

    due = clock.now + 10
    job = scheduler.put(work(5, 6), deadline=Deadline(due + 900, due), reduce_budget=reduce)
    untouched = scheduler.put(work(6, 2), deadline=Deadline(due + 901, due + 100), reduce_budget=reduce)
    clock.now += 7
    engine.gate.set()
    assert await asyncio.gather(running.future, job.future, untouched.future) == [10_000, 25, 36]
    assert calls == [(6, 3.0, 0)]
    assert (job.request.rows, untouched.request.rows) == (3, 2)
    await scheduler.drain(WAIT)


async def test_cancelled_jobs_leave_the_queue_at_once() -> None:
    engine = FakeEngine()
    scheduler = make(engine, max_queue_seconds=10.0)
    running = await occupy(engine, scheduler)
    for _ in range(300):  # far more than the queue holds: cancelled entries must not pile up either
        scheduler.cancel(scheduler.put(work(7, 10)))
    assert scheduler.queued == 0
    kept = scheduler.put(work(8, 3))
    scheduler.cancel(running)  # too late to save its compute: its result has nobody to go to
    engine.gate.set()
    assert await kept.future == 64
    assert running.future.cancelled()
    assert engine.batches == [[100], [8]]
    await scheduler.drain(WAIT)


async def test_client_that_leaves_between_parts_costs_no_more() -> None:
    engine = FakeEngine()
    scheduler = make(engine)
    engine.gate.clear()
    job = scheduler.put(work(7, 200))
    await engine.busy()
    scheduler.cancel(job)
    after = scheduler.put(work(8))
    engine.gate.set()
    assert await after.future == 64
    assert await scheduler.drain(WAIT)
    assert engine.batches == [[7], [8]]


async def test_full_queue_refuses_and_says_when() -> None:
    engine, clock = FakeEngine(), Clock()
    scheduler = make(engine, clock, max_queue_seconds=5.0)
    await occupy(engine, scheduler)
    kept = scheduler.put(work(1, 4))
    with pytest.raises(Overloaded, match="4 s of compute are queued before it, and 2 s more would pass 5") as caught:
        scheduler.put(work(2, 2))
    assert caught.value.retry_after_ms == 5000  # one second is left of what runs, four are queued
    also = scheduler.put(work(3, 1))
    assert scheduler.backlog(priority=9) == pytest.approx(6, abs=0.002)
    assert scheduler.backlog(priority=5) == pytest.approx(1, abs=0.002)  # those without a deadline are behind it
    urgent = [scheduler.put(work(4, 5), deadline=by(clock.now + 900)), scheduler.put(work(5, 5), priority=0)]
    for full in ({"deadline": by(clock.now + 900)}, {"priority": 0}):
        with pytest.raises(Overloaded):
            scheduler.put(work(6), **full)
    engine.gate.set()
    assert [await job.future for job in (kept, also, *urgent)] == [1, 9, 16, 25]
    assert await scheduler.put(work(2, 7)).future == 4  # nothing is queued: more than the queue holds may run
    await scheduler.drain(WAIT)


async def test_a_batch_that_raises_is_retried_one_by_one_and_fails_only_whom_it_must(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = FakeEngine()
    scheduler = make(engine)
    await occupy(engine, scheduler)
    jobs = [scheduler.put(work(number)) for number in (2, -1, 3)]
    engine.gate.set()
    outcomes = await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
    assert isinstance(outcomes[1], EngineFailed)
    assert [outcomes[0], outcomes[2]] == [4, 9]
    assert engine.batches == [[100], [2, -1, 3], [2], [-1], [3]]
    assert scheduler.retries == 1
    assert "device lost" in caplog.text
    assert "device lost" not in str(outcomes[1])
    with pytest.raises(EngineFailed):
        await scheduler.put(work(-1)).future
    assert engine.batches[5:] == [[-1]]  # alone from the start: once is enough
    await scheduler.drain(WAIT)


async def test_an_outcome_that_is_an_error_fails_its_own_job_only() -> None:
    engine = FakeEngine()
    scheduler = make(engine)
    await occupy(engine, scheduler)
    jobs = [scheduler.put(work(number)) for number in (1, -2, 3)]
    large = scheduler.put(work(-2, 200))  # in its first part
    engine.gate.set()
    outcomes = await asyncio.gather(*(job.future for job in (*jobs, large)), return_exceptions=True)
    assert isinstance(outcomes[1], NonfiniteOutput)
    assert isinstance(outcomes[3], NonfiniteOutput)
    assert [outcomes[0], outcomes[2]] == [1, 9]
    await scheduler.drain(WAIT)


async def test_too_few_outcomes_are_a_failure_not_a_mix_up(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()
    engine.run = lambda parts: []  # type: ignore[method-assign]
    scheduler = make(engine)
    with pytest.raises(EngineFailed):
        await scheduler.put(work(1)).future
    assert "0 results for 1 requests" in caplog.text
    await scheduler.drain(WAIT)


async def test_a_worker_that_dies_fails_what_it_held_and_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()
    scheduler = make(engine)
    await occupy(engine, scheduler)
    jobs = [scheduler.put(work(number, 32)) for number in (1, -3, 2, 3)]
    engine.gate.set()
    outcomes = await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes[:2]] == [EngineFailed, EngineFailed]
    assert outcomes[2:] == [4, 9]
    assert "the worker thread died" in caplog.text
    assert (scheduler.restarts, scheduler.alive, len(engine.threads)) == (1, True, 2)
    assert await scheduler.drain(WAIT)


async def test_a_worker_that_dies_of_nothing_it_computed_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, broken = FakeEngine(), asyncio.Event()
    scheduler = make(engine, on_broken=broken.set)
    monkeypatch.setattr(scheduler._queue, "take", lambda now: 1 / 0)
    job = scheduler.put(work(1))
    with pytest.raises(EngineFailed):
        await job.future
    await asyncio.wait_for(broken.wait(), WAIT)
    await asyncio.to_thread(scheduler._thread.join, WAIT)  # type: ignore[union-attr]
    assert not scheduler.alive
    with pytest.raises(NotReady):
        scheduler.put(work(1))
    assert not await scheduler.drain(WAIT)


async def test_abandoning_a_stuck_worker_answers_everyone_at_once() -> None:
    engine, clock = FakeEngine(), Clock()
    scheduler = make(engine, clock)
    assert scheduler.busy_since is None
    stuck = await occupy(engine, scheduler)
    assert scheduler.busy_since == clock.now
    queued = scheduler.put(work(5))
    scheduler.abandon("the engine is lost")
    for job in (stuck, queued):
        with pytest.raises(EngineFailed, match="the engine is lost"):
            await job.future
    with pytest.raises(NotReady):
        scheduler.put(work(1))
    assert not await scheduler.drain(WAIT)  # it does not wait for the worker
    engine.gate.set()
    await asyncio.to_thread(scheduler._thread.join, WAIT)  # type: ignore[union-attr]
    assert not scheduler.alive
    assert engine.batches == [[100]]


async def test_drain_answers_what_was_accepted_and_refuses_the_rest() -> None:
    engine = FakeEngine()
    scheduler = make(engine)
    running = await occupy(engine, scheduler)
    queued, large = scheduler.put(work(5)), scheduler.put(work(6, 200))
    draining = asyncio.ensure_future(scheduler.drain(WAIT))
    await asyncio.sleep(0)  # lets the drain close the queue
    with pytest.raises(NotReady):
        scheduler.put(work(6))
    engine.gate.set()
    assert await draining
    assert [await running.future, await queued.future, await large.future] == [10_000, 25, 36]


@pytest.mark.parametrize("rows", [1, 200])
async def test_drain_that_runs_out_of_time_answers_too(rows: int) -> None:
    engine = FakeEngine()
    scheduler = make(engine)
    engine.gate.clear()
    running = scheduler.put(work(100, rows))
    await engine.busy()
    queued = scheduler.put(work(5))
    assert not await scheduler.drain(0.001)
    with pytest.raises(NotReady):
        await queued.future
    engine.gate.set()
    if rows == 1:
        assert await running.future == 10_000
    else:
        with pytest.raises(NotReady):
            await running.future
    await asyncio.to_thread(scheduler._thread.join, WAIT)  # type: ignore[union-attr]
    assert len(engine.batches) == 1


async def test_calls_run_in_the_worker_between_batches_and_return_what_they_return() -> None:
    engine = FakeEngine()
    scheduler = make(engine)
    running = await occupy(engine, scheduler)

    def note(number: int) -> threading.Thread:
        engine.batches.append([number])
        return threading.current_thread()

    calls = [asyncio.ensure_future(scheduler.call(partial(note, number))) for number in (-10, -11)]
    failing = asyncio.ensure_future(scheduler.call(lambda: 1 // 0))
    await asyncio.sleep(0)  # lets them reach the scheduler
    jobs = [scheduler.put(work(number, 64)) for number in (1, 2)]
    engine.gate.set()
    assert set(await asyncio.gather(*calls)) == engine.threads
    with pytest.raises(ZeroDivisionError):
        await failing
    await asyncio.gather(running.future, *(job.future for job in jobs))
    assert engine.batches == [[100], [-10], [1], [-11], [2]]  # in turns
    assert await scheduler.drain(WAIT)
    with pytest.raises(NotReady):
        await scheduler.call(lambda: None)


async def test_a_worker_that_dies_in_a_call_fails_it_and_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()
    scheduler = make(engine)
    with pytest.raises(EngineFailed):
        await scheduler.call(lambda: sys.exit("a library ends the thread"))
    assert "the worker thread died" in caplog.text
    assert await scheduler.put(work(3)).future == 9
    assert scheduler.restarts == 1
    assert await scheduler.drain(WAIT)


async def test_every_worker_thread_is_prepared() -> None:
    engine, prepared = FakeEngine(), []
    scheduler = make(engine, on_thread_start=lambda: prepared.append(threading.current_thread()))
    with pytest.raises(EngineFailed):
        await scheduler.put(work(-3)).future
    await scheduler.put(work(3)).future
    assert set(prepared) == engine.threads
    assert len(prepared) == 2
    await scheduler.drain(WAIT)


async def test_a_stuck_call_is_busy_and_ends_when_the_engine_is_given_up() -> None:
    clock, gate, inside = Clock(), threading.Event(), threading.Event()
    scheduler = make(FakeEngine(), clock)
    waiting = [
        asyncio.ensure_future(scheduler.call(call)) for call in (lambda: (inside.set(), gate.wait(WAIT)), lambda: None)
    ]
    assert await asyncio.to_thread(inside.wait, WAIT)
    assert scheduler.busy_since == clock.now
    scheduler.abandon("the engine is lost")
    for call in waiting:
        with pytest.raises(EngineFailed, match="the engine is lost"):
            await call
    gate.set()
    await asyncio.to_thread(scheduler._thread.join, WAIT)  # type: ignore[union-attr]


async def test_one_wake_up_of_the_loop_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    scheduler = make(engine)
    running = await occupy(engine, scheduler)
    jobs = [scheduler.put(work(number)) for number in range(64)]
    wake_ups: list[Any] = []
    call_loop = scheduler._call_loop
    monkeypatch.setattr(scheduler, "_call_loop", lambda *call: (wake_ups.append(call), call_loop(*call)))
    engine.gate.set()
    await asyncio.gather(running.future, *(job.future for job in jobs))
    assert len(wake_ups) == 2
    await scheduler.drain(WAIT)


def test_knows_neither_torch_nor_a_web_framework() -> None:
    heavy = "{'torch', 'fastapi', 'starlette', 'pydantic'}"
    code = f"import sys, service.scheduling.scheduler; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("submit"),
            st.sampled_from([-3, -2, -1, 1, 2, 3]),
            st.integers(1, 200),
            st.integers(0, 9),
            st.none() | st.integers(0, 5),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("pass"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["shut", "open", "yield", "abandon"])),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_every_accepted_job_ends_exactly_once(script: list[tuple[Any, ...]]) -> None:
    """Whatever is submitted, cancelled, delayed, fails or kills the worker in whatever order."""
    asyncio.run(_play(script))


async def _play(script: list[tuple[Any, ...]]) -> None:
    engine, clock = FakeEngine(), Clock()
    scheduler = make(engine, clock, max_queue_seconds=300.0)
    accepted: list[Job] = []
    ends: dict[int, int] = {}
    abandoned = False
    for step in script:
        if step[0] == "submit":
            _, number, rows, priority, wait = step
            deadline = None if wait is None else by(clock.now + wait * 100)
            try:
                job = scheduler.put(work(number, rows), priority, deadline)
            except (Overloaded, DeadlineExceeded):
                continue
            except NotReady:
                assert abandoned
                continue
            accepted.append(job)
            job.future.add_done_callback(lambda f: ends.update({id(f): ends.get(id(f), 0) + 1}))
        elif step[0] == "cancel" and step[1] < len(accepted):
            scheduler.cancel(accepted[step[1]])
        elif step[0] == "pass":
            clock.now += step[1] * 100
        elif step[0] == "shut":
            engine.gate.clear()
        elif step[0] == "open":
            engine.gate.set()
        elif step[0] == "abandon" and not engine.gate.is_set():
            scheduler.abandon("stuck")
            abandoned = True
        else:
            await asyncio.sleep(0)
    engine.gate.set()
    assert await scheduler.drain(WAIT) is not abandoned
    assert scheduler.queued == 0
    outcomes = await asyncio.gather(*(job.future for job in accepted), return_exceptions=True)
    for job, outcome in zip(accepted, outcomes, strict=True):
        assert ends[id(job.future)] == 1
        if isinstance(outcome, int):
            assert outcome == number_of(job.request) ** 2
        else:
            assert isinstance(
                outcome, (DeadlineExceeded, NotReady, EngineFailed, NonfiniteOutput, asyncio.CancelledError)
            )
        if isinstance(outcome, NonfiniteOutput):
            assert number_of(job.request) == -2
        if isinstance(outcome, EngineFailed) and not abandoned and not scheduler.restarts:
            assert number_of(job.request) == -1
    for parts in engine.parts:
        assert sum(stop - start for _, start, stop in parts) <= 64
    await asyncio.to_thread(scheduler._thread.join, WAIT)  # type: ignore[union-attr]
