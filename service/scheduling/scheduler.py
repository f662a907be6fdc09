"""One worker thread, and the jobs and calls that wait for it. It knows neither torch nor HTTP.

The event loop submits jobs. The worker takes a batch of them (`job_queue`), runs it, gives finished jobs their results
and queues unfinished ones again. Jobs that arrive while a batch runs form the next one: nothing waits for a timer.

    submit -> queued <-> running -> done       The future of every accepted job ends exactly once: with a reply, with
                 \\---------------> done        the error of its own request, of its deadline, of the drain, of an
                  deadline, cancel, drain      engine that raised, died or got stuck, or as cancelled.

Whatever else must run in the worker thread, which owns the device, is a call: the making and the warm-up of engines.
While jobs wait, calls and batches take turns.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

from service.errors import DeadlineExceeded, EngineFailed, NotReady, Overloaded, ServiceError
from service.sample import SampleRequest
from service.scheduling.batch_plan import BatchPlan
from service.scheduling.engine_calls import EngineCalls
from service.scheduling.job import Engine, Job, ReduceBudget
from service.scheduling.job_queue import JobQueue
from service.scheduling.running_quantile import RunningQuantile
from service.timing import Deadline

log = logging.getLogger(__name__)

T = TypeVar("T")


class _Call(NamedTuple):
    """A function to run in the worker thread, and who waits for what it returns."""

    function: Callable[[], Any]
    future: asyncio.Future[Any]


class Scheduler:
    """A bounded queue and the worker thread behind it.

    Args:
        slice_seconds: predicted time of a batch, at most.
        max_batch_rows: network rows of a batch.
        max_queue_seconds: a new job is refused if it and the jobs ahead of it are predicted to take longer. Jobs that
            it would overtake do not count, and a job with nothing ahead of it is always accepted.
        aging_seconds: a waiting job gains a level of priority this often.
        clock: seconds, monotonic; deadlines are on it.
        on_thread_start: called first in every worker thread.
        on_broken: called on the event loop when the worker died of nothing it was handed; it is not replaced.
    """

    def __init__(
        self,
        *,
        slice_seconds: float,
        max_batch_rows: int,
        max_queue_seconds: float,
        aging_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        on_thread_start: Callable[[], None] = lambda: None,
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        self._slice_seconds = slice_seconds
        self._max_queue_seconds = max_queue_seconds
        self._clock = clock
        self._on_thread_start = on_thread_start
        self._on_broken = on_broken
        self._engine_calls = EngineCalls(clock)
        self._wake = threading.Condition()  # guards everything below it, and every job's state
        self._queue = JobQueue(slice_seconds=slice_seconds, max_rows=max_batch_rows, aging_seconds=aging_seconds)
        self._calls: deque[_Call] = deque()
        self._delay = RunningQuantile(clock)
        self._held: list[Job] = []  # by the worker
        self._held_call: _Call | None = None
        self._last_was_call = False
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
        """When the call that the worker is in began, on the scheduler's clock; None while it is in none."""
        return self._engine_calls.since

    @property
    def retries(self) -> int:
        """Batches that raised and were run request by request."""
        return self._engine_calls.retries

    @property
    def delay_seconds(self) -> float:
        """Schedule delay, 99th percentile: how much later than predicted jobs with a deadline are computed."""
        return self._delay.seconds

    def start(self) -> None:
        """Start the worker thread. From the event loop that will submit."""
        self._loop = asyncio.get_running_loop()
        self._stopped = self._loop.create_future()
        self._start_worker()

    def backlog(self, priority: int) -> float:
        """Seconds until a job with a deadline that came now would be begun, in 99 of 100 cases at most.

        This is the prediction plus the schedule delay: batches that took longer than predicted, and jobs that came
        between. It is at most twice the prediction, so that nothing keeps requests from an idle engine.
        """
        with self._wake:
            predicted = self._predicted_backlog(priority)
            return predicted + min(self._delay.seconds, predicted)

    def submit(
        self,
        request: SampleRequest,
        engine: Engine,
        priority: int = 5,
        deadline: Deadline | None = None,
        *,
        reduce_budget: ReduceBudget | None = None,
    ) -> Job:
        """Accept a job, or raise. From the event loop. Await `job.future`. For the arguments see `Job`.

        Raises:
            NotReady: draining, or the worker is gone.
            DeadlineExceeded: the deadline has passed already.
            Overloaded: too much is queued ahead of it.
        """
        now = self._clock()
        if deadline is not None and deadline.reply <= now:
            raise DeadlineExceeded(
                "the deadline passed before the request was queued; nothing was computed", reason="expired_queued"
            )
        job = Job(
            request,
            engine,
            self._loop.create_future(),
            priority=priority,
            deadline=deadline,
            reduce_budget=reduce_budget,
            submitted=now,
        )
        with self._wake:
            self._check_open()
            before = self._queue.seconds_before(priority, deadline is not None)
            if before and before + job.seconds > self._max_queue_seconds:
                raise self._overloaded(before, job.seconds)
            job.predicted_finish = now + self._predicted_backlog(priority) + job.estimate.per_call + job.seconds
            self._queue.add(job)
            self._wake.notify()
        if deadline is not None:
            # The worker may be busy until after the deadline, so the event loop itself answers in time. A job whose
            # budget is exact is lost already when its compute should end.
            last = deadline.compute if reduce_budget is None else deadline.reply
            job.timer = self._loop.call_later(last - now, self._expire, job)
        return job

    def cancel(self, job: Job) -> None:
        """The client has gone: compute no more of the job, and drop the result of a batch that holds it."""
        with self._wake:
            job.abandoned = True
            self._queue.remove(job)
        if job.timer is not None:
            job.timer.cancel()
        job.future.cancel()

    async def call(self, function: Callable[[], T]) -> T:
        """`function()` in the worker thread, between two batches. From the event loop.

        Raises:
            NotReady: draining, or the worker is gone.
            EngineFailed: the worker died in it, or got stuck.
            Whatever `function` raises.
        """
        call = _Call(function, self._loop.create_future())
        with self._wake:
            self._check_open()
            self._calls.append(call)
            self._wake.notify()
        return cast(T, await call.future)

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
        self._fail_held(error)
        self._fail_queued(error)
        self._stop()

    def _check_open(self) -> None:
        if self._closed:
            raise NotReady("the server is draining", retry_after_ms=1000)

    def _fail_queued(self, error: ServiceError) -> None:
        with self._wake:
            self._halted = True
            waiting = [job for job in self._queue.jobs() if self._queue.remove(job)]
            calls, self._calls = self._calls, deque()
        for job in waiting:
            self._finish(job, error)
        for call in calls:
            _end(call.future, error)

    def _fail_held(self, error: ServiceError) -> bool:
        """Fail what the worker held when it died or got stuck. False: it held nothing."""
        with self._wake:
            held, self._held = [job for job in self._held if job.state != "queued"], []
            call, self._held_call = self._held_call, None
            for job in held:
                job.state = "done"
        for job in held:
            self._finish(job, error)
        if call is not None:
            _end(call.future, error)
        return bool(held) or call is not None

    def _predicted_backlog(self, priority: int) -> float:
        calls = self._slice_seconds if self._calls else 0.0  # the next one at most: they take turns with batches
        return self._queue.seconds_before(priority, timed=True) + self._running_seconds() + calls

    def _running_seconds(self) -> float:
        return 0.0 if self.busy_since is None else max(0.0, self._busy_until - self._clock())

    def _overloaded(self, before: float, seconds: float) -> Overloaded:
        return Overloaded(
            f"{before:.3g} s of compute are queued before it, and {seconds:.3g} s more would pass "
            f"{self._max_queue_seconds:g} (max_queue_seconds)",
            retry_after_ms=round((before + self._running_seconds()) * 1000),
            reason="queue_full",
        )

    def _expire(self, job: Job) -> None:
        with self._wake:
            waited = self._queue.remove(job)
            if waited:
                self._delay.observe(self._clock() - job.predicted_finish)  # at least: it was never computed
        if waited:
            self._finish(job, _late(job))

    def _finish(self, job: Job, result: object) -> None:
        """End the job's future with a SampleReply or a ServiceError."""
        if job.timer is not None:
            job.timer.cancel()
        _end(job.future, result)

    def _start_worker(self) -> None:
        # A daemon: a second interrupt during a drain ends the process while a batch may still be running.
        self._thread = threading.Thread(target=self._work, name="sorl-engine", daemon=True)
        self._thread.start()

    def _revive(self) -> None:
        """After the worker has died: fail what it held, and start another. On the loop."""
        if self._fail_held(EngineFailed("the worker thread died under this request; the server's log says why")):
            self.restarts += 1
            self._start_worker()
        else:
            # Nothing that it was handed killed it: the next one would die as well.
            self.abandon("the worker thread died; the server's log has the traceback")
            self._on_broken()

    def _stop(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    # The worker thread's side.

    def _work(self) -> None:
        try:
            self._on_thread_start()
            while self._run_next():
                pass
        except BaseException:
            # Not an engine that raised, which `engine_calls` handles, but the end of the thread itself: SystemExit in
            # a library's callback, or a fault of ours. Without this the queue would fill up with nobody to serve it.
            log.critical("the worker thread died", exc_info=True)
            self._call_loop(self._revive)
        else:
            self._call_loop(self._stop)

    def _run_next(self) -> bool:
        """Wait for a call or jobs, and run the call or a batch. False: closed, and nothing is left.

        The worker holds no job or call while it waits: a model that is no longer served leaves memory.
        """
        with self._wake:
            while not self._calls and not len(self._queue):
                if self._closed:
                    return False
                self._wake.wait()
            now = self._clock()
            if self._calls and not (self._last_was_call and len(self._queue)):
                self._last_was_call = True
                call = self._held_call = self._calls.popleft()
                self._busy_until = now + self._slice_seconds
            else:
                self._last_was_call, call = False, None
                plan, late = self._queue.take(now)
                for job in late:
                    self._delay.observe(now + job.seconds - job.predicted_finish)
                self._held = [*plan.jobs, *late]
                self._busy_until = now + plan.seconds
        if call is not None:
            self._run_call(call)
        else:
            self._run_batch(plan, late, now)
        return True

    def _run_call(self, call: _Call) -> None:
        try:
            result = self._engine_calls.call(call.function)
        except Exception as error:  # handed to whoever asked; the worker goes on
            result = error
        with self._wake:
            abandoned, self._held_call = self._held_call is None, None
        if not abandoned:
            self._call_loop(_end, call.future, result)

    def _run_batch(self, plan: BatchPlan, late: list[Job], now: float) -> None:
        if late:
            self._deliver([(job, _late(job)) for job in late])
        if plan.jobs:
            for job in plan.jobs:
                job.times.started = job.times.started or now
            finished = self._settle(plan, self._engine_calls.run([job.engine for job in plan.jobs], plan.parts))
            if finished:
                self._deliver(finished)
        with self._wake:
            self._held = []

    def _settle(self, plan: BatchPlan, results: Sequence[object]) -> list[tuple[Job, object]]:
        """Queue unfinished jobs again. Returns the finished ones with their results."""
        finished: list[tuple[Job, object]] = []
        with self._wake:
            now = self._clock()
            for job, part, result in zip(plan.jobs, plan.parts, results, strict=True):
                if job.state == "done":  # abandoned meanwhile
                    continue
                job.rows_done = part.stop
                if job.rows_left > 0 and not isinstance(result, ServiceError):
                    if not job.abandoned and not self._halted:
                        job.partial = result
                        self._queue.add(job)
                        continue
                    result = NotReady("the server stopped before this request was finished", retry_after_ms=1000)
                job.state = "done"
                job.times.finished = now
                if job.deadline is not None:
                    self._delay.observe(now - job.predicted_finish)
                finished.append((job, result))
            self._held = [job for job, _ in finished]
        return finished

    def _deliver(self, finished: list[tuple[Job, object]]) -> None:
        """Wake the event loop once for a batch, however many jobs it held."""

        def on_loop() -> None:
            for job, result in finished:
                self._finish(job, result)

        self._call_loop(on_loop)

    def _call_loop(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop is closed: a drain ran out of time, and nobody is left to answer
            log.warning("a batch ended after the event loop had closed")


def _end(future: asyncio.Future[Any], result: object) -> None:
    """End `future` with what it waited for, or with the error. No effect if it has ended: its client has gone."""
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


def _late(job: Job) -> DeadlineExceeded:
    if job.rows_done:
        return DeadlineExceeded(
            "the deadline passed while the request was computed; it was given up", reason="expired_computing"
        )
    return DeadlineExceeded(
        "the deadline passed in the queue, or could no longer be met; nothing was computed", reason="expired_queued"
    )
