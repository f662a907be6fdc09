"""One worker thread in front of which jobs wait. Knows neither torch nor HTTP: it is handed callables and a clock.

The event loop submits jobs; the worker takes a slice of them (`job_queue`), runs it, gives finished jobs their results
and queues the rest of unfinished ones again. What arrives while a slice runs forms the next one; nothing waits for a
timer.

    submit -> queued <-> running -> done       Every accepted job's future ends exactly once: with a result, or with
                 \\---------------> done        the error of its own row, of its deadline, of the drain, of an engine
                  deadline, cancel, drain      that raised, died or got stuck, or cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from service.errors import DeadlineExceeded, EngineFailed, NotReady, Overloaded, ServiceError
from service.scheduling.batch_plan import Slice
from service.scheduling.engine_calls import EngineCalls, Run
from service.scheduling.job import Job, Price, Reduce
from service.scheduling.job_queue import JobQueue
from service.scheduling.running_quantile import Reserve

log = logging.getLogger(__name__)

W = TypeVar("W")
R = TypeVar("R")


class Scheduler(Generic[W, R]):
    """A bounded queue and the worker thread behind it.

    Args:
        run: computes a slice, see `engine_calls`; called in the worker thread only.
        price: what a work is predicted to cost; called in both threads.
        slice_seconds: predicted time of a slice.
        max_slice_rows: network rows of a slice.
        max_queue_seconds: predicted seconds that may wait before a new job; what it goes before does not count.
        aging_seconds: a waiting job gains a step of priority this often.
        clock: seconds, monotonic; deadlines are on it.
        on_broken: told, on the event loop, that the worker died without a job to blame and is not coming back.
    """

    def __init__(
        self,
        run: Run[W],
        price: Callable[[W], Price],
        *,
        slice_seconds: float,
        max_slice_rows: int,
        max_queue_seconds: float,
        aging_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        self._calls = EngineCalls(run, clock)
        self._price = price
        self._max_queue_seconds = max_queue_seconds
        self._clock = clock
        self._on_broken = on_broken
        self._wake = threading.Condition()  # guards everything below it, and every job's state
        self._queue: JobQueue[W, R] = JobQueue(
            price, slice_seconds=slice_seconds, max_rows=max_slice_rows, aging_seconds=aging_seconds
        )
        self._slip = Reserve(clock)  # how much later than expected jobs with a deadline are computed
        self._held: list[Job[W, R]] = []  # by the worker
        self._busy_until = 0.0
        self._closed = self._halted = False
        self._thread: threading.Thread | None = None
        self.restarts = 0

    @property
    def queued(self) -> int:
        """Jobs waiting now."""
        return len(self._queue)

    @property
    def queued_seconds(self) -> float:
        """Predicted compute of the jobs waiting now."""
        with self._wake:
            return self._queue.seconds

    @property
    def alive(self) -> bool:
        """Is the worker thread there?"""
        return self._thread is not None and self._thread.is_alive()

    @property
    def busy_since(self) -> float | None:
        """When the engine was called, if it has not come back; on the scheduler's clock."""
        return self._calls.since

    @property
    def retries(self) -> int:
        """Batches that raised and were run request by request."""
        return self._calls.retries

    def start(self, prepare: Callable[[], None]) -> None:
        """Start the worker thread, which calls `prepare` (warm-up) first. From the event loop that will submit."""
        self._loop = asyncio.get_running_loop()
        self._stopped = self._loop.create_future()
        self._start_worker(prepare)

    def backlog(self, priority: int) -> float:
        """Seconds until a job with a deadline that came now would be begun, at the latest, in 99 of 100 cases.

        That is what is predicted, and what predictions were off by lately: batches that take longer, and work that
        came between. Never more than twice what is predicted, so that nothing keeps requests from an idle engine.
        """
        with self._wake:
            predicted = self._predicted_backlog(priority)
            return predicted + min(self._slip.seconds, predicted)

    @property
    def slip(self) -> float:
        """Seconds by which jobs with a deadline are computed later than predicted, in 1 of 100 cases or more."""
        return self._slip.seconds

    def submit(
        self,
        work: W,
        priority: int = 5,
        deadline: float | None = None,
        *,
        due: float | None = None,
        reduce: Reduce[W] | None = None,
    ) -> Job[W, R]:
        """Accept a job, or raise. From the event loop. Await `job.future`. For the arguments see `Job`.

        Raises:
            NotReady: draining, or the worker is no more.
            DeadlineExceeded: the deadline has passed already.
            Overloaded: too much is queued before it.
        """
        now = self._clock()
        if deadline is not None and deadline <= now:
            raise DeadlineExceeded(
                "the deadline passed before the request was queued; nothing was computed", reason="expired_queued"
            )
        price = self._price(work)
        job: Job[W, R] = Job(
            work,
            price,
            self._loop.create_future(),
            priority=priority,
            deadline=deadline,
            due=due,
            reduce=reduce,
            submitted=now,
        )
        with self._wake:
            if self._closed:
                raise NotReady("the server is draining", retry_after_ms=1000)
            before = self._queue.seconds_before(priority, deadline is not None)
            if before and before + job.seconds > self._max_queue_seconds:
                raise self._overloaded(before, job.seconds)
            job.expected = now + self._predicted_backlog(priority) + price.call + price.seconds()
            self._queue.add(job)
            self._wake.notify()
        if deadline is not None:
            # The worker may be busy for longer than this job can wait: the loop itself answers in time. What is exact
            # is lost when it is due, which leaves time to say so.
            last = deadline if reduce is not None or job.due is None else job.due
            job.timer = self._loop.call_later(last - now, self._expire, job)
        return job

    def cancel(self, job: Job[W, R]) -> None:
        """The client has gone: compute nothing more for it, and drop the result of what is being computed."""
        with self._wake:
            job.gone = True
            self._queue.remove(job)
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
            self._fail_queued(NotReady("the server stopped before this request's turn", retry_after_ms=1000))
            return False
        return not self._halted

    def abandon(self, why: str) -> None:
        """The worker is not coming back: fail all that it holds and all that waits, accept no more. On the loop."""
        error = EngineFailed(why)
        with self._wake:
            self._closed = True
        held = self._held_jobs()
        self._fail_queued(error)
        for job in held:
            self._finish(job, error)
        self._stop()

    def _fail_queued(self, error: ServiceError) -> None:
        with self._wake:
            self._halted = True
            waiting = [job for job in self._queue.jobs() if self._queue.remove(job)]
        for job in waiting:
            self._finish(job, error)

    def _held_jobs(self) -> list[Job[W, R]]:
        """Take from the worker what it held when it died or got stuck."""
        with self._wake:
            held = [job for job in self._held if job.state != "queued"]
            self._held = []
            for job in held:
                job.state = "done"
            return held

    def _predicted_backlog(self, priority: int) -> float:
        return self._queue.seconds_before(priority, timed=True) + self._running_seconds()

    def _running_seconds(self) -> float:
        return 0.0 if self._calls.since is None else max(0.0, self._busy_until - self._clock())

    def _overloaded(self, before: float, seconds: float) -> Overloaded:
        return Overloaded(
            f"{before:.3g} s of compute are queued before it, and {seconds:.3g} s more would pass "
            f"{self._max_queue_seconds:g} (max_queue_seconds)",
            retry_after_ms=round((before + self._running_seconds()) * 1000),
            reason="queue_full",
        )

    def _expire(self, job: Job[W, R]) -> None:
        with self._wake:
            waited = self._queue.remove(job)
            if waited:
                self._slip.observe(self._clock() - job.expected)  # and more, but nobody will know how much
        if waited:
            self._finish(job, _late(job))

    def _finish(self, job: Job[W, R], outcome: R | ServiceError) -> None:
        if job.timer is not None:
            job.timer.cancel()
        if job.future.done():  # its client has gone, or the worker was given up
            return
        if isinstance(outcome, ServiceError):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)

    def _start_worker(self, prepare: Callable[[], None]) -> None:
        # A daemon: a second interrupt during a drain ends the process while a batch may still be running.
        self._thread = threading.Thread(target=self._work, args=(prepare,), name="sorl-engine", daemon=True)
        self._thread.start()

    def _revive(self) -> None:
        """After the worker has died: fail what it held, and start another. On the loop."""
        held = self._held_jobs()
        if not held:
            # Nothing that it computed killed it: the next one would die as well.
            self.abandon("the worker thread died; the server's log has the traceback")
            self._on_broken()
            return
        self.restarts += 1
        for job in held:
            self._finish(job, EngineFailed("the worker thread died under this request; the server's log says why"))
        self._start_worker(lambda: None)

    def _stop(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    # The worker thread's side.

    def _work(self, prepare: Callable[[], None]) -> None:
        try:
            prepare()
            while self._run_slice():
                pass
        except BaseException:
            # Not an engine that raised, which `engine_calls` handles, but the thread's own end (SystemExit in a
            # library's callback, a fault of ours). Without this the queue would fill behind nobody.
            log.critical("the worker thread died", exc_info=True)
            self._call_loop(self._revive)
        else:
            self._call_loop(self._stop)

    def _run_slice(self) -> bool:
        """Wait for work, and do a slice of it. False: closed, and nothing is left."""
        with self._wake:
            while not len(self._queue):
                if self._closed:
                    return False
                self._wake.wait()
            self._held = []
            now = self._clock()
            taken, late = self._queue.take(now)
            for job in late:
                self._slip.observe(now + job.seconds - job.expected)
            self._held = [*taken.jobs, *late]
            self._busy_until = now + taken.seconds
        if late:
            self._deliver([(job, _late(job)) for job in late])
        if taken.jobs:
            for job in taken.jobs:
                job.started = job.started or now
            finished = self._settle(taken, self._calls.results(taken.portions))
            if finished:
                self._deliver(finished)
        return True

    def _settle(self, taken: Slice[W, R], results: Sequence[Any]) -> list[tuple[Job[W, R], R | ServiceError]]:
        """Queue again what is not finished. What is, with its outcome."""
        finished = []
        with self._wake:
            now = self._clock()
            for job, portion, result in zip(taken.jobs, taken.portions, results, strict=True):
                if job.state == "done":  # abandoned meanwhile
                    continue
                job.done = portion.stop
                if job.done < job.price.rows and not isinstance(result, ServiceError):
                    if not job.gone and not self._halted:
                        job.carry = result
                        self._queue.add(job)
                        continue
                    result = NotReady("the server stopped before this request was finished", retry_after_ms=1000)
                job.state = "done"
                job.finished = now
                if job.deadline is not None:
                    self._slip.observe(now - job.expected)
                finished.append((job, result))
            self._held = [job for job, _ in finished]
        return finished

    def _deliver(self, finished: list[tuple[Job[W, R], R | ServiceError]]) -> None:
        """One wake-up of the event loop a slice, however many jobs it held."""

        def on_loop() -> None:
            for job, outcome in finished:
                self._finish(job, outcome)

        self._call_loop(on_loop)

    def _call_loop(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop is closed: a drain that ran out of time, and nobody is left to answer
            log.warning("a batch ended after the event loop had closed")


def _late(job: Job[W, R]) -> DeadlineExceeded:
    if job.done:
        return DeadlineExceeded(
            "the deadline passed while the request was computed; it was given up", reason="expired_computing"
        )
    return DeadlineExceeded(
        "the deadline passed in the queue, or could no longer be met; nothing was computed", reason="expired_queued"
    )
