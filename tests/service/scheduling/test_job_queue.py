"""The queue alone: no thread, no event loop, a clock that tests move. Requests have planted costs."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.sample import RequestPart, SampleRequest
from service.scheduling.batch_plan import MIN_ROWS, BatchPlan
from service.scheduling.job import Job
from service.scheduling.job_queue import JobQueue
from service.timing import CostEstimate, Deadline

ROW, FIXED, CALL = 1.0, 0.5, 2.0
SLICE, MAX_ROWS, AGING = 100.0, 80, 1000.0


class Costs:
    """An engine that only estimates."""

    def __init__(self, margin: float = 1.0) -> None:
        self.margin = margin

    def estimate(self, request: SampleRequest) -> CostEstimate:
        return CostEstimate(request.rows, ROW, FIXED, CALL, self.margin)

    def run(self, parts: list[RequestPart]) -> list[object]:
        raise AssertionError("the queue runs nothing")


ENGINE = Costs()


def work(rows: int) -> SampleRequest:
    return SampleRequest(np.zeros((1, 1), np.float32), rows, 1, np.zeros(1, np.uint64))


def halve(request: SampleRequest, seconds: float, rows_done: int) -> SampleRequest:
    """As admission does: what fits into `seconds`, at least one row more than is done."""
    rows = min(request.rows, max(rows_done + 1, rows_done + int(seconds - CALL - FIXED)))
    return request if rows == request.rows else work(rows)


def make_queue(**changes: Any) -> JobQueue:
    return JobQueue(**{"slice_seconds": SLICE, "max_rows": MAX_ROWS, "aging_seconds": AGING, **changes})


def put(
    queue: JobQueue,
    rows: int,
    now: float = 0.0,
    *,
    engine: Costs = ENGINE,
    deadline: float | None = None,
    compute: float | None = None,
    **changes: Any,
) -> Job:
    future: Any = Future()  # nobody waits for it here
    due = None if deadline is None else Deadline(deadline, deadline if compute is None else compute)
    job = Job(work(rows), engine, future, submitted=now, deadline=due, **changes)
    queue.add(job)
    return job


def ranges(taken: BatchPlan) -> list[tuple[int, int, int]]:
    return [(part.request.rows, part.start, part.stop) for part in taken.parts]


def give_back(queue: JobQueue, taken: BatchPlan) -> list[Job]:
    """What the scheduler does after a batch. Finished jobs."""
    finished = []
    for job, part in zip(taken.jobs, taken.parts, strict=True):
        job.rows_done = part.stop
        if job.rows_left:
            queue.add(job)
        else:
            job.state = "done"
            finished.append(job)
    return finished


def test_priority_then_earliest_deadline_then_arrival() -> None:
    queue = make_queue()
    jobs = [
        put(queue, 1),
        put(queue, 1, deadline=900),
        put(queue, 1, deadline=800),
        put(queue, 1, priority=9, deadline=700),
        put(queue, 1, priority=0),
        put(queue, 1),
    ]
    taken, late = queue.take(0)
    assert [jobs.index(job) for job in taken.jobs] == [4, 2, 1, 0, 5, 3]
    assert not late
    assert len(queue) == queue.seconds == 0


def test_a_batch_ends_by_its_predicted_time_and_rows() -> None:
    queue = make_queue()
    for _ in range(5):
        put(queue, 30)
    taken, _ = queue.take(0)
    assert len(taken.jobs) == 2  # 2.5 of 80 rows
    assert taken.seconds == CALL + 2 * (FIXED + 30)
    queue = make_queue(max_rows=1000)
    for _ in range(5):
        put(queue, 30)
    assert len(queue.take(0)[0].jobs) == 3  # of 100 seconds


def test_every_engine_in_a_batch_costs_its_own_call() -> None:
    """Two engines are two calls: 2 (2 + 0.5 + 10) s, so that a third job of 47 s does not fit into 100 s beside 40."""
    queue, other = make_queue(max_rows=1000), Costs()
    for engine in (ENGINE, other, ENGINE):
        put(queue, 10, engine=engine)
    taken, _ = queue.take(0)
    assert taken.seconds == 2 * CALL + 3 * (FIXED + 10)
    put(queue, 48)
    put(queue, 47, engine=ENGINE)
    put(queue, 1, engine=other)
    assert len(queue.take(0)[0].jobs) == 2  # 98 s of 100: the last needs 1.5 s and a call of 2


def test_what_does_not_fit_is_not_overtaken_by_smaller_ones() -> None:
    queue = make_queue()
    for rows in (40, 30, 35, 1):
        put(queue, rows)
    assert ranges(queue.take(0)[0]) == [(40, 0, 40), (30, 0, 30)]
    assert ranges(queue.take(0)[0]) == [(35, 0, 35), (1, 0, 1)]


def test_a_large_job_alone_has_the_whole_slice() -> None:
    queue = make_queue(max_rows=1000)
    put(queue, 250)
    assert ranges(queue.take(0)[0]) == [(250, 0, 97)]  # 100 s, less call and fixed


def test_a_large_job_leaves_half_a_batch_to_small_ones_behind_it() -> None:
    queue = make_queue(max_rows=1000)
    put(queue, 250)
    for _ in range(4):
        put(queue, 20)
    taken, _ = queue.take(0)
    assert ranges(taken) == [(250, 0, 49), (20, 0, 20), (20, 0, 20)]
    assert taken.seconds <= SLICE  # 7 s are left, and the small ones are done that much earlier
    give_back(queue, taken)
    assert ranges(queue.take(0)[0])[1:] == [(20, 0, 20), (20, 0, 20)]


def test_slices_leave_room_for_what_predictions_are_off_by() -> None:
    for margin, rows in ((1.0, 97), (1.25, 77), (2.0, 47)):  # 100 s / margin, less call and fixed
        queue = make_queue(max_rows=1000)
        put(queue, 250, engine=Costs(margin))
        taken, _ = queue.take(0)
        assert ranges(taken) == [(250, 0, rows)]
        assert taken.seconds * margin <= SLICE


def test_two_large_jobs_go_one_after_the_other_and_small_ones_beside_both() -> None:
    queue = make_queue(max_rows=1000)
    put(queue, 150)
    put(queue, 151)
    small = put(queue, 5)
    taken, _ = queue.take(0)
    assert small in taken.jobs
    assert [job.estimate.rows for job in taken.jobs] == [150, 5]
    finished = []
    for _ in range(6):
        finished += [job.estimate.rows for job in give_back(queue, taken)]
        taken, _ = queue.take(0)
    assert finished == [5, 150, 151]


def test_a_machine_too_slow_for_its_slices_still_gets_ahead() -> None:
    queue = make_queue(slice_seconds=3.0)
    put(queue, 40)
    assert ranges(queue.take(0)[0]) == [(40, 0, MIN_ROWS)]


def test_late_ones_are_not_computed() -> None:
    queue = make_queue()
    late, in_time = put(queue, 1, deadline=10), put(queue, 1, deadline=13.5)
    taken, found = queue.take(10)
    assert (taken.jobs, found) == ([in_time], [late])
    assert (late.state, in_time.state) == ("done", "running")


def test_what_can_no_longer_be_met_and_not_be_reduced_is_not_computed() -> None:
    queue = make_queue()
    hopeless, behind = put(queue, 20, deadline=30, compute=22), put(queue, 20, deadline=40, compute=24)
    reducible = put(queue, 20, deadline=50, compute=20, reduce_budget=halve)
    taken, late = queue.take(0)
    assert (taken.jobs, late) == ([behind, reducible], [hopeless])
    assert reducible.request.rows == 1
    begun = put(make_queue(), 40, deadline=30)
    begun.rows_done = 20
    queue.add(begun)
    assert queue.take(8)[1] == [begun]
    assert not len(queue)


def test_what_must_not_be_less_is_given_up_once_it_is_more_likely_late_than_not() -> None:
    queue = make_queue()
    hopeless = put(queue, 20, deadline=30, compute=22, reduce_budget=lambda request, seconds, rows_done: None)
    assert queue.take(0)[1] == [hopeless]
    assert not len(queue)
    tight = put(queue, 20, deadline=30, compute=24, reduce_budget=lambda request, seconds, rows_done: None)
    tight.estimate = tight.estimate._replace(margin=1.5)  # too little time with the margin, enough without
    assert queue.take(0)[0].jobs == [tight]
    assert tight.request.rows == 20


def test_a_batch_ends_by_the_deadline_of_what_it_holds() -> None:
    queue = make_queue()
    put(queue, 20, deadline=30, compute=30)
    put(queue, 5)
    put(queue, 5)
    assert ranges(queue.take(0)[0]) == [(20, 0, 20), (5, 0, 5)]  # 28.0 of 30; a third would pass it
    # A deadline that is missed in any case protects nobody.
    put(queue, 20, deadline=30, compute=10, reduce_budget=lambda request, seconds, rows_done: request)
    assert len(queue.take(0)[0].jobs) == 2


def test_a_job_that_would_be_late_is_reduced_when_its_slice_is_made() -> None:
    queue = make_queue()
    job = put(queue, 40, deadline=30, compute=25, reduce_budget=halve)
    exact = put(queue, 40, deadline=31, compute=25)
    spare = put(queue, 4, deadline=90, compute=80, reduce_budget=halve)
    taken, _ = queue.take(0)
    assert job.request.rows == 22
    assert exact.request.rows == 40
    assert spare.request.rows == 4
    assert job in taken.jobs
    assert queue.seconds == pytest.approx(sum(j.seconds for j in (exact, spare) if j.state == "queued"))


def test_a_started_job_is_reduced_to_no_less_than_one_more_row() -> None:
    queue = make_queue(max_rows=1000)
    job = put(queue, 250, deadline=1000, compute=900, reduce_budget=halve)
    give_back(queue, queue.take(0)[0])
    taken, _ = queue.take(950.0)
    assert ranges(taken) == [(98, 97, 98)]
    assert give_back(queue, taken) == [job]


def test_what_waits_long_goes_before_what_keeps_coming() -> None:
    queue = make_queue()
    old = put(queue, 80, priority=9)
    served = 0
    for step in range(1, 200):
        now = step * AGING / 10
        put(queue, 80, now, priority=0, deadline=now + 1e6)
        taken, _ = queue.take(now)
        give_back(queue, taken)
        served += 1
        if old.rows_done:
            break
    # Nine levels until it is level with the newcomers, one more to pass them, and one for the tick of ageing.
    assert 90 <= served <= 110


def test_backlog_before_a_newcomer_counts_what_goes_first() -> None:
    queue = make_queue()
    put(queue, 10, priority=5)
    put(queue, 20, priority=5, deadline=50)
    put(queue, 30, priority=4)
    put(queue, 40, priority=6, deadline=50)
    assert queue.seconds_before(5, timed=True) == 20 + 30 + 2 * FIXED
    assert queue.seconds_before(5, timed=False) == 10 + 20 + 30 + 3 * FIXED
    assert queue.seconds_before(6, timed=True) == 10 + 20 + 30 + 40 + 4 * FIXED
    assert queue.seconds_before(0, timed=False) == 0
    assert queue.seconds == 100 + 4 * FIXED


def test_removed_entries_do_not_pile_up() -> None:
    queue = make_queue()
    put(queue, 1)
    for _ in range(300):
        assert queue.remove(put(queue, 10))
    assert len(queue._heap) <= 66
    assert (len(queue), queue.seconds) == (1, pytest.approx(1 + FIXED))
    taken, _ = queue.take(0)
    assert len(taken.jobs) == 1
    assert not queue.remove(taken.jobs[0])


class Machine(RuleBasedStateMachine):
    """Any order of arrivals, removals, batches and passing time."""

    @initialize(max_rows=st.sampled_from([8, 40, 1000]), slice_seconds=st.sampled_from([4.0, 30.0, 100.0]))
    def begin(self, max_rows: int, slice_seconds: float) -> None:
        self.max_rows, self.slice_seconds = max_rows, slice_seconds
        self.queue = make_queue(max_rows=max_rows, slice_seconds=slice_seconds, aging_seconds=50.0)
        self.now = 0.0
        self.waiting: list[Job] = []
        self.ends: dict[int, list[str]] = {}
        self.computed: dict[int, list[tuple[int, int]]] = {}

    @rule(
        rows=st.integers(1, 120),
        priority=st.integers(0, 9),
        wait=st.none() | st.floats(1, 300),
        reduces=st.booleans(),
    )
    def submit(self, rows: int, priority: int, wait: float | None, reduces: bool) -> None:
        deadline = None if wait is None else self.now + wait
        job = put(
            self.queue,
            rows,
            self.now,
            priority=priority,
            deadline=deadline,
            reduce_budget=halve if reduces and deadline is not None else None,
        )
        self.waiting.append(job)
        self.ends[id(job)], self.computed[id(job)] = [], []

    @rule(seconds=st.floats(0, 120))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        job = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        assert self.queue.remove(job)
        assert not self.queue.remove(job)
        self.ends[id(job)].append("removed")

    @precondition(lambda self: self.waiting)
    @rule()
    def next_batch(self) -> None:
        best = min(job.level for job in self.waiting)
        taken, late = self.queue.take(self.now)
        assert taken.jobs or late
        for job in late:
            assert job.deadline is not None
            assert job.deadline.reply <= self.now or job.reduce_budget is None
            assert job.deadline.reply < self.now + taken.seconds + CALL + job.seconds
            self.waiting.remove(job)
            self.ends[id(job)].append("late")
        rows = sum(part.stop - part.start for part in taken.parts)
        assert rows <= self.max_rows
        expected = CALL * bool(taken.jobs) + sum(FIXED + ROW * (part.stop - part.start) for part in taken.parts)
        assert taken.seconds == pytest.approx(expected)
        if taken.seconds > self.slice_seconds + 1e-9:
            assert len(taken.jobs) == 1
            assert rows <= MIN_ROWS
        if taken.jobs:  # nobody of a better level or, in the level, of an earlier deadline was left out altogether
            first = taken.jobs[0]
            for job in self.queue.jobs():
                assert _rank(first) < _rank(job)
            assert first.level <= best or late
        for job, part in zip(taken.jobs, taken.parts, strict=True):
            assert part.start == job.rows_done < part.stop <= job.estimate.rows == job.request.rows
            self.computed[id(job)].append((part.start, part.stop))
        self.now += taken.seconds
        for job in give_back(self.queue, taken):
            self.waiting.remove(job)
            self.ends[id(job)].append("done")
            parts = self.computed[id(job)]
            assert [start for start, _ in parts] == [0, *(stop for _, stop in parts[:-1])]
            assert parts[-1][1] == job.request.rows

    @invariant()
    def books_balance(self) -> None:
        if not hasattr(self, "queue"):
            return
        assert len(self.queue) == len(self.waiting)
        assert sorted(map(id, self.queue.jobs())) == sorted(map(id, self.waiting))
        assert self.queue.seconds == pytest.approx(sum(job.seconds for job in self.waiting), abs=1e-6)
        for job in self.waiting:
            assert self.ends[id(job)] == []

    def teardown(self) -> None:
        if not hasattr(self, "queue"):
            return
        batches = 0
        while self.waiting:
            self.next_batch()
            batches += 1
            assert batches < 10_000
        assert all(len(ends) == 1 for ends in self.ends.values())


def _rank(job: Job) -> tuple[float, float, int]:
    return job.level, float("inf") if job.deadline is None else job.deadline.reply, job.arrival


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    deadline=None,
    max_examples=60,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
