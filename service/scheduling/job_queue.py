"""Which jobs wait, in which order, and which of them form the next batch. It has no thread, no lock and no clock.

Order: level, then earliest deadline, then arrival. A job's level is its priority, minus one for every `aging_seconds`
that it has waited, without a lower limit. So no job waits for ever behind others that keep coming.

A batch (see `batch_plan`) is filled in this order until the next job does not fit.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict

from service.scheduling.batch_plan import BatchPlan
from service.scheduling.job import Job


class JobQueue:
    """Jobs that wait.

    Args:
        slice_seconds, max_rows: see `BatchPlan`.
        aging_seconds: see above.
    """

    def __init__(self, *, slice_seconds: float, max_rows: int, aging_seconds: float) -> None:
        self._slice_seconds = slice_seconds
        self._max_rows = max_rows
        self._aging_seconds = aging_seconds
        self._heap: list[tuple[int, float, int, Job]] = []
        self._seconds: defaultdict[tuple[int, bool], float] = defaultdict(float)  # (level, has a deadline) -> queued
        self._arrivals = 0
        self._next_aging = -math.inf
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def seconds(self) -> float:
        """Predicted compute of all waiting jobs."""
        return sum(self._seconds.values())

    def seconds_before(self, priority: int, timed: bool) -> float:
        """Predicted compute of the jobs ahead of a new job of `priority`; `timed`: it has a deadline."""
        return sum(
            seconds
            for (level, has_deadline), seconds in self._seconds.items()
            if level < priority or (level == priority and (has_deadline or not timed))
        )

    def jobs(self) -> list[Job]:
        """All waiting jobs, in no order."""
        return [job for *_, job in self._heap if job.state == "queued"]

    def add(self, job: Job) -> None:
        """Queue a new job, or one of which a batch has computed a part."""
        if not job.arrival:
            self._arrivals += 1
            job.arrival = self._arrivals
        job.state = "queued"
        self._size += 1
        self._seconds[job.level, job.deadline is not None] += job.seconds
        heapq.heappush(self._heap, _entry(job))

    def remove(self, job: Job) -> bool:
        """Remove `job` for good. False: it does not wait. Its heap entry is removed later, many at a time."""
        if job.state != "queued":
            return False
        self._leave(job)
        job.state = "done"
        if not self._size:
            self._heap.clear()
        elif len(self._heap) > 64 and len(self._heap) > 2 * self._size:
            self._rebuild()
        return True

    def take(self, now: float) -> tuple[BatchPlan, list[Job]]:
        """The next batch, whose jobs are "running" from here on, and the jobs that can't meet their deadline."""
        if now >= self._next_aging:
            self._age(now)
        plan = BatchPlan(self._slice_seconds, self._max_rows, now)
        late, passed_over = [], []
        while self._heap:
            entry = self._heap[0]
            job = entry[-1]
            if job.state == "queued":
                if not self._meets_deadline(job, now, now + plan.seconds):
                    self._leave(job)
                    job.state = "done"
                    late.append(job)
                else:
                    answer = plan.offer(job)
                    if answer == "full":
                        break  # a smaller job behind it must not overtake it: it might then wait for ever
                    if answer == "large already":
                        passed_over.append(entry)
                    else:
                        self._leave(job)
                        job.state = "running"
            heapq.heappop(self._heap)
        for entry in passed_over:
            heapq.heappush(self._heap, entry)
        plan.fill_up()
        return plan, late

    def _meets_deadline(self, job: Job, now: float, start: float) -> bool:
        """Would `job`, begun at `start`, be done in time? Its budget is reduced first, if that is allowed."""
        if job.deadline is None:
            return True
        if job.deadline.reply <= now:
            return False
        left, needed = job.deadline.compute - start, job.estimate.per_call + job.seconds
        if needed * job.estimate.margin <= left:
            return True
        request = job.reduce_budget and job.reduce_budget(job.request, left, job.rows_done)
        if request is None:
            return needed <= left  # no margin: an accepted job is given up only if it is more likely late than not
        if request is not job.request:
            self._seconds[job.level, True] -= job.seconds
            job.reduce(request)
            self._seconds[job.level, True] += job.seconds
        return True

    def _leave(self, job: Job) -> None:
        self._size -= 1
        self._seconds[job.level, job.deadline is not None] -= job.seconds
        if not self._size:
            self._seconds.clear()  # rounding errors of the sums go with it

    def _age(self, now: float) -> None:
        self._next_aging = now + self._aging_seconds
        for job in self.jobs():
            job.level = job.priority - int((now - job.times.submitted) / self._aging_seconds)
        self._rebuild()

    def _rebuild(self) -> None:
        jobs = self.jobs()
        self._seconds.clear()
        for job in jobs:
            self._seconds[job.level, job.deadline is not None] += job.seconds
        self._heap = [_entry(job) for job in jobs]
        heapq.heapify(self._heap)


def _entry(job: Job) -> tuple[int, float, int, Job]:
    return job.level, math.inf if job.deadline is None else job.deadline.reply, job.arrival, job
