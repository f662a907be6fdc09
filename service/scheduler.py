"""Who is computed next, and with whom. Knows neither torch nor HTTP: it is handed a callable and a clock.

The event loop submits jobs; one worker thread takes all that fit into a batch, runs it, and gives the results back.
What arrives while a batch runs forms the next one. Order: priority, then earliest deadline, then arrival.

    submit -> queued -> running -> done        Every accepted job's future ends exactly once: with a result, or with
                 \\-------------> done         the error of its own row, of its batch, of its deadline, of the drain,
                  deadline, cancel, drain      or cancelled.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, Literal, TypeVar

from service.errors import DeadlineExceeded, EngineFailed, NotReady, Overloaded, ServiceError

log = logging.getLogger(__name__)

W = TypeVar("W")
R = TypeVar("R")

Run = Callable[[list[W]], "Sequence[R | ServiceError]"]
"""A batch's works -> as many outcomes, in order; an outcome that is an error fails its own job only."""


class Job(Generic[W, R]):
    """One accepted request. Times are the scheduler's clock, seconds; `future` belongs to the event loop."""

    __slots__ = ("deadline", "finished", "future", "priority", "rows", "started", "state", "submitted", "timer", "work")

    def __init__(self, work: W, rows: int, priority: int, deadline: float | None, future: asyncio.Future[R]) -> None:
        self.work = work
        self.rows = rows
        self.priority = priority
        self.deadline = deadline
        self.future = future
        self.state: Literal["queued", "running", "done"] = "queued"
        self.timer: asyncio.TimerHandle | None = None
        self.submitted = self.started = self.finished = 0.0


class Scheduler(Generic[W, R]):
    """A bounded priority queue in front of one worker thread.

    Args:
        run: computes a batch; called in the worker thread only.
        max_batch_rows: network rows of a batch; a larger job runs alone.
        max_queue_rows: rows that may wait.
        clock: seconds, monotonic; deadlines are on it.
    """

    def __init__(
        self, run: Run[W, R], *, max_batch_rows: int, max_queue_rows: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._run = run
        self._max_batch_rows = max_batch_rows
        self._max_queue_rows = max_queue_rows
        self._clock = clock
        self._wake = threading.Condition()  # guards everything below it, and every job's state
        self._heap: list[tuple[int, float, int, Job[W, R]]] = []
        self._arrivals = 0
        self._queued_jobs = 0
        self._queued_rows = 0
        self._closed = False
        self._seconds_per_row = 0.0
        self._thread: threading.Thread | None = None

    @property
    def queued_rows(self) -> int:
        """Rows waiting now."""
        return self._queued_rows

    @property
    def backlog_seconds(self) -> float:
        """Predicted compute of the rows waiting now."""
        return self._queued_rows * self._seconds_per_row

    @property
    def alive(self) -> bool:
        """Is the worker thread there?"""
        return self._thread is not None and self._thread.is_alive()

    def start(self, prepare: Callable[[], None]) -> None:
        """Start the worker thread, which calls `prepare` (warm-up) first. From the event loop that will submit."""
        self._loop = asyncio.get_running_loop()
        self._stopped = self._loop.create_future()
        # A daemon: a second interrupt during a drain ends the process while a batch may still be running.
        self._thread = threading.Thread(target=self._work, args=(prepare,), name="sorl-engine", daemon=True)
        self._thread.start()

    def submit(self, work: W, rows: int, priority: int = 5, deadline: float | None = None) -> Job[W, R]:
        """Accept a job, or raise. From the event loop. Await `job.future`.

        Raises:
            NotReady: draining.
            DeadlineExceeded: the deadline has passed already.
            Overloaded: the queue has no room for `rows`.
        """
        now = self._clock()
        if deadline is not None and deadline <= now:
            raise DeadlineExceeded("the deadline passed before the request was queued; nothing was computed")
        job: Job[W, R] = Job(work, rows, priority, deadline, self._loop.create_future())
        job.submitted = now
        with self._wake:
            if self._closed:
                raise NotReady("the server is draining", retry_after_ms=1000)
            if self._queued_rows + rows > self._max_queue_rows:
                raise self._overloaded(rows)
            self._arrivals += 1
            rank = float("inf") if deadline is None else deadline
            heapq.heappush(self._heap, (priority, rank, self._arrivals, job))
            self._queued_jobs += 1
            self._queued_rows += rows
            self._wake.notify()
        if deadline is not None:
            # The worker may be busy for longer than this job can wait: the loop itself answers in time.
            job.timer = self._loop.call_later(deadline - now, self._expire, job)
        return job

    def cancel(self, job: Job[W, R]) -> None:
        """The client has gone: compute nothing for it if it still waits, and drop its result if it doesn't."""
        self._withdraw(job)
        if job.timer is not None:
            job.timer.cancel()
        job.future.cancel()

    def close(self) -> None:
        """Accept no more. What is queued is still computed; then the worker ends."""
        with self._wake:
            self._closed = True
            self._wake.notify()

    async def drain(self, seconds: float) -> bool:
        """Close, and wait for the worker. What still waits after `seconds` ends as NotReady. True: nothing did."""
        self.close()
        try:
            await asyncio.wait_for(asyncio.shield(self._stopped), seconds)
        except TimeoutError:
            waiting = [job for *_, job in self._heap]
            for job in filter(self._withdraw, waiting):
                self._finish(job, NotReady("the server stopped before this request's turn", retry_after_ms=1000))
            return False
        return True

    def _overloaded(self, rows: int) -> Overloaded:
        estimate = self.backlog_seconds or 0.1
        return Overloaded(
            f"{self._queued_rows} rows are queued, and {rows} more would pass {self._max_queue_rows} (max_queue_rows)",
            retry_after_ms=round(estimate * 1000),
        )

    def _withdraw(self, job: Job[W, R]) -> bool:
        """Take `job` out of the queue; False if it isn't there any more. Its heap entry goes later, in bulk."""
        with self._wake:
            if job.state != "queued":
                return False
            self._leave(job, "done")
            if len(self._heap) > 64 and len(self._heap) > 2 * self._queued_jobs:
                self._heap = [entry for entry in self._heap if entry[-1].state == "queued"]
                heapq.heapify(self._heap)
            return True

    def _leave(self, job: Job[W, R], state: Literal["running", "done"]) -> None:
        job.state = state
        self._queued_jobs -= 1
        self._queued_rows -= job.rows

    def _expire(self, job: Job[W, R]) -> None:
        if self._withdraw(job):
            self._finish(job, _expired())

    def _finish(self, job: Job[W, R], outcome: R | ServiceError) -> None:
        if job.timer is not None:
            job.timer.cancel()
        if job.future.done():  # its client has gone
            return
        if isinstance(outcome, ServiceError):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)

    # The worker thread's side.

    def _work(self, prepare: Callable[[], None]) -> None:
        prepare()
        while (taken := self._take()) is not None:
            batch, late = taken
            if late:
                self._deliver([(job, _expired()) for job in late])
            if batch:
                self._deliver(list(zip(batch, self._outcomes(batch), strict=True)))
        self._call_loop(self._stopped.set_result, None)

    def _take(self) -> tuple[list[Job[W, R]], list[Job[W, R]]] | None:
        """Wait for work. (jobs to run, jobs whose deadline has passed), or None when closed and empty."""
        batch: list[Job[W, R]] = []
        late: list[Job[W, R]] = []
        rows = 0
        with self._wake:
            while not self._queued_jobs:
                self._heap.clear()
                if self._closed:
                    return None
                self._wake.wait()
            now = self._clock()
            while self._heap:
                job = self._heap[0][-1]
                if job.state == "queued":
                    if job.deadline is not None and job.deadline <= now:
                        self._leave(job, "done")
                        late.append(job)
                    elif batch and rows + job.rows > self._max_batch_rows:
                        break  # no smaller one may overtake it: else a large job could wait for ever
                    else:
                        self._leave(job, "running")
                        job.started = now
                        rows += job.rows
                        batch.append(job)
                heapq.heappop(self._heap)
        return batch, late

    def _outcomes(self, batch: list[Job[W, R]]) -> Sequence[R | ServiceError]:
        started = self._clock()
        try:
            outcomes = self._run([job.work for job in batch])
            if len(outcomes) != len(batch):
                raise RuntimeError(f"the engine gave {len(outcomes)} outcomes for {len(batch)} requests")
        except Exception:
            # The one place that must survive whatever a backend, a driver or an allocator raises: the batch fails,
            # typed, and the next one is taken.
            log.exception("a batch of %d requests failed", len(batch))
            outcomes = [EngineFailed("the engine failed; the server's log has the traceback") for _ in batch]
        finished = self._clock()
        for job in batch:
            job.state = "done"
            job.finished = finished
        per_row = (finished - started) / sum(job.rows for job in batch)
        self._seconds_per_row = 0.8 * (self._seconds_per_row or per_row) + 0.2 * per_row
        return outcomes

    def _deliver(self, finished: list[tuple[Job[W, R], R | ServiceError]]) -> None:
        """One wake-up of the event loop a batch, however many jobs it held."""

        def on_loop() -> None:
            for job, outcome in finished:
                self._finish(job, outcome)

        self._call_loop(on_loop)

    def _call_loop(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop is closed: a drain that ran out of time, and nobody is left to answer
            log.warning("a batch ended after the event loop had closed")


def _expired() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed in the queue; nothing was computed")
