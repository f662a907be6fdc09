"""The scheduler alone: fake engines, a fake clock, no torch, no HTTP."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import DeadlineExceeded, EngineFailed, NonfiniteOutput, NotReady, Overloaded, ServiceError
from service.scheduler import Job, Scheduler

pytestmark = pytest.mark.anyio
WAIT = 30


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeEngine:
    """Squares numbers; batches wait while `gate` is shut. Notes what it was handed, and on which thread."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()

    def run(self, works: list[int]) -> list[int | ServiceError]:
        self.batches.append(list(works))
        self.threads.add(threading.get_ident())
        self.entered.release()
        assert self.gate.wait(WAIT)
        if -1 in works:
            raise RuntimeError("device lost")
        return [NonfiniteOutput("row") if work == -2 else work * work for work in works]

    async def busy(self) -> None:
        """Wait until a batch is inside."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=WAIT)


def make(engine: FakeEngine, clock: Callable[[], float] | None = None, **limits: int) -> Scheduler[int, int]:
    limits = {"max_batch_rows": 4, "max_queue_rows": 100, **limits}
    scheduler: Scheduler[int, int] = Scheduler(engine.run, clock=clock or Clock(), **limits)
    scheduler.start(lambda: None)
    return scheduler


async def occupy(engine: FakeEngine, scheduler: Scheduler[int, int]) -> Job[int, int]:
    """Shut the gate with one job inside, so that what follows queues."""
    engine.gate.clear()
    job = scheduler.submit(100, 1)
    await engine.busy()
    return job


async def test_results_come_back_to_their_own_jobs() -> None:
    engine = FakeEngine()
    scheduler = make(engine)
    jobs = [scheduler.submit(number, 1) for number in range(50)]
    assert await asyncio.gather(*(job.future for job in jobs)) == [number**2 for number in range(50)]
    assert await scheduler.drain(WAIT)
    assert engine.threads.isdisjoint({threading.get_ident()})
    assert len(engine.threads) == 1


async def test_what_arrives_while_a_batch_runs_forms_the_next_one() -> None:
    engine = FakeEngine()
    scheduler = make(engine)
    first = await occupy(engine, scheduler)
    jobs = [scheduler.submit(number, 1) for number in range(6)]
    engine.gate.set()
    await asyncio.gather(first.future, *(job.future for job in jobs))
    assert engine.batches == [[100], [0, 1, 2, 3], [4, 5]]
    await scheduler.drain(WAIT)


async def test_rows_are_counted_and_a_larger_job_runs_alone() -> None:
    engine = FakeEngine()
    scheduler = make(engine)
    await occupy(engine, scheduler)
    jobs = [scheduler.submit(work, rows) for work, rows in [(1, 3), (2, 2), (3, 9), (4, 1)]]
    engine.gate.set()
    await asyncio.gather(*(job.future for job in jobs))
    assert engine.batches[1:] == [[1], [2], [3], [4]]
    await scheduler.drain(WAIT)


async def test_priority_then_earliest_deadline_then_arrival() -> None:
    engine, clock = FakeEngine(), Clock()
    scheduler = make(engine, clock, max_batch_rows=10)
    await occupy(engine, scheduler)
    jobs = [
        scheduler.submit(1, 1, priority=5),
        scheduler.submit(2, 1, priority=5, deadline=clock.now + 900),
        scheduler.submit(3, 1, priority=5, deadline=clock.now + 800),
        scheduler.submit(4, 1, priority=9, deadline=clock.now + 700),
        scheduler.submit(5, 1, priority=0),
        scheduler.submit(6, 1, priority=5),
    ]
    engine.gate.set()
    await asyncio.gather(*(job.future for job in jobs))
    assert engine.batches[1] == [5, 3, 2, 1, 6, 4]
    await scheduler.drain(WAIT)


async def test_deadline_that_passes_in_the_queue_costs_no_compute() -> None:
    engine, clock = FakeEngine(), Clock()
    scheduler = make(engine, clock)
    await occupy(engine, scheduler)
    late = scheduler.submit(7, 1, deadline=clock.now + 500)
    in_time = scheduler.submit(8, 1, deadline=clock.now + 501)
    clock.now += 500
    engine.gate.set()
    with pytest.raises(DeadlineExceeded):
        await late.future
    assert await in_time.future == 64
    assert engine.batches == [[100], [8]]
    with pytest.raises(DeadlineExceeded):
        scheduler.submit(9, 1, deadline=clock.now)
    await scheduler.drain(WAIT)


async def test_deadline_is_answered_while_the_worker_is_still_busy() -> None:
    engine, clock = FakeEngine(), Clock()
    scheduler = make(engine, clock)
    running = await occupy(engine, scheduler)
    late = scheduler.submit(7, 3, deadline=clock.now + 0.001)
    with pytest.raises(DeadlineExceeded):
        await late.future
    assert not running.future.done()
    assert scheduler.queued_rows == 0
    engine.gate.set()
    assert await running.future == 10_000
    assert await scheduler.drain(WAIT)
    assert engine.batches == [[100]]


async def test_cancelled_jobs_leave_the_queue_at_once() -> None:
    engine = FakeEngine()
    scheduler = make(engine, max_queue_rows=10)
    running = await occupy(engine, scheduler)
    for _ in range(300):  # far more than the queue holds: cancelled entries must not pile up either
        scheduler.cancel(scheduler.submit(7, 10))
    assert scheduler.queued_rows == 0
    assert len(scheduler._heap) <= 65
    kept = scheduler.submit(8, 10)
    scheduler.cancel(running)  # too late to save its compute: its result has nobody to go to
    engine.gate.set()
    assert await kept.future == 64
    assert running.future.cancelled()
    assert engine.batches == [[100], [8]]
    await scheduler.drain(WAIT)


async def test_full_queue_refuses_and_says_when() -> None:
    engine = FakeEngine()
    scheduler = make(engine, max_queue_rows=5)
    await occupy(engine, scheduler)
    kept = scheduler.submit(1, 4)
    with pytest.raises(Overloaded) as caught:
        scheduler.submit(2, 2)
    assert caught.value.retry_after_ms >= 1
    also = scheduler.submit(3, 1)
    engine.gate.set()
    assert [await kept.future, await also.future] == [1, 9]
    assert await scheduler.submit(2, 5).future == 4
    await scheduler.drain(WAIT)


async def test_a_batch_that_raises_fails_what_it_held_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()
    scheduler = make(engine, max_batch_rows=2)
    await occupy(engine, scheduler)
    jobs = [scheduler.submit(work, 1) for work in (-1, 2, 3, 4)]
    engine.gate.set()
    outcomes = await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes[:2]] == [EngineFailed, EngineFailed]
    assert outcomes[2:] == [9, 16]
    assert "device lost" in caplog.text
    assert "device lost" not in str(outcomes[0])
    await scheduler.drain(WAIT)


async def test_an_outcome_that_is_an_error_fails_its_own_job_only() -> None:
    engine = FakeEngine()
    scheduler = make(engine)
    await occupy(engine, scheduler)
    jobs = [scheduler.submit(work, 1) for work in (1, -2, 3)]
    engine.gate.set()
    outcomes = await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
    assert isinstance(outcomes[1], NonfiniteOutput)
    assert [outcomes[0], outcomes[2]] == [1, 9]
    await scheduler.drain(WAIT)


async def test_too_few_outcomes_are_a_failure_not_a_mix_up(caplog: pytest.LogCaptureFixture) -> None:
    scheduler: Scheduler[int, int] = Scheduler(lambda works: works[:-1], max_batch_rows=4, max_queue_rows=9)
    scheduler.start(lambda: None)
    with pytest.raises(EngineFailed):
        await scheduler.submit(1, 1).future
    assert "0 outcomes for 1 requests" in caplog.text
    await scheduler.drain(WAIT)


async def test_drain_answers_what_was_accepted_and_refuses_the_rest() -> None:
    engine = FakeEngine()
    scheduler = make(engine)
    running = await occupy(engine, scheduler)
    queued = scheduler.submit(5, 1)
    draining = asyncio.ensure_future(scheduler.drain(WAIT))
    await asyncio.sleep(0)  # lets the drain close the queue
    with pytest.raises(NotReady):
        scheduler.submit(6, 1)
    engine.gate.set()
    assert await draining
    assert [await running.future, await queued.future] == [10_000, 25]


async def test_drain_that_runs_out_of_time_answers_too() -> None:
    engine = FakeEngine()
    scheduler = make(engine)
    running = await occupy(engine, scheduler)
    queued = scheduler.submit(5, 1)
    assert not await scheduler.drain(0.001)
    with pytest.raises(NotReady):
        await queued.future
    engine.gate.set()
    assert await running.future == 10_000
    assert await scheduler.drain(WAIT)


async def test_one_wake_up_of_the_loop_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    scheduler = make(engine, max_batch_rows=64)
    running = await occupy(engine, scheduler)
    jobs = [scheduler.submit(number, 1) for number in range(64)]
    wake_ups: list[Any] = []
    call_loop = scheduler._call_loop
    monkeypatch.setattr(scheduler, "_call_loop", lambda *call: (wake_ups.append(call), call_loop(*call)))
    engine.gate.set()
    await asyncio.gather(running.future, *(job.future for job in jobs))
    assert len(wake_ups) == 2
    await scheduler.drain(WAIT)


def test_knows_neither_torch_nor_a_web_framework() -> None:
    code = "import sys, service.scheduler; print(sorted({'torch', 'fastapi', 'starlette', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("submit"),
            st.sampled_from([-2, -1, 1, 2, 3]),
            st.integers(1, 6),
            st.integers(0, 9),
            st.none() | st.integers(0, 5),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("pass"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["shut", "open", "yield"])),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_every_accepted_job_ends_exactly_once(script: list[tuple[Any, ...]]) -> None:
    """Whatever is submitted, cancelled, delayed or fails in whatever order."""
    asyncio.run(_play(script))


async def _play(script: list[tuple[Any, ...]]) -> None:
    engine, clock = FakeEngine(), Clock()
    scheduler = make(engine, clock, max_queue_rows=12)
    numbers: dict[int, list[int]] = {}  # each submission computes its own list object: identity tells who ran
    accepted: list[tuple[Job[Any, Any], list[int]]] = []
    ends: dict[int, int] = {}

    def run(works: list[Any]) -> list[Any]:
        for work in works:
            numbers[id(work)].append(1)
        return engine.run([work[0] for work in works])

    scheduler._run = run
    for step in script:
        if step[0] == "submit":
            _, number, rows, priority, wait = step
            work, count = [number], []
            numbers[id(work)] = count
            try:
                job: Job[Any, Any] = scheduler.submit(
                    work, rows, priority, None if wait is None else clock.now + wait * 100
                )
            except (Overloaded, DeadlineExceeded):
                continue
            accepted.append((job, count))
            job.future.add_done_callback(lambda f: ends.update({id(f): ends.get(id(f), 0) + 1}))
        elif step[0] == "cancel" and step[1] < len(accepted):
            scheduler.cancel(accepted[step[1]][0])
        elif step[0] == "pass":
            clock.now += step[1] * 100
        elif step[0] == "shut":
            engine.gate.clear()
        elif step[0] == "open":
            engine.gate.set()
        else:
            await asyncio.sleep(0)
        assert scheduler.queued_rows <= 12
    engine.gate.set()
    assert await scheduler.drain(WAIT)
    assert scheduler.queued_rows == 0
    outcomes = await asyncio.gather(*(job.future for job, _ in accepted), return_exceptions=True)
    for (job, computed), outcome in zip(accepted, outcomes, strict=True):
        assert ends[id(job.future)] == 1
        assert len(computed) <= 1
        if isinstance(outcome, (DeadlineExceeded, NotReady)):
            assert not computed
        elif isinstance(outcome, asyncio.CancelledError):
            pass
        elif isinstance(outcome, EngineFailed):
            assert computed
        elif isinstance(outcome, NonfiniteOutput):
            assert job.work == [-2]
        else:
            assert outcome == job.work[0] ** 2
    assert all(len(batch) == 1 or sum(1 for _ in batch) <= 4 for batch in engine.batches)
