"""Who waits, in which order, and what goes into the next slice. No thread, no lock, no clock of its own.

Order: level, then earliest deadline, then arrival. A level is the priority, one less for every `aging_seconds` waited,
without end: so nothing waits for ever behind what keeps coming.

A slice (see `slice`) is filled in this order until the next job does not fit.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Generic, TypeVar

from service.scheduling.batch_plan import Slice
from service.scheduling.job import Job, Price

W = TypeVar("W")
R = TypeVar("R")


class JobQueue(Generic[W, R]):
    """Jobs that wait.

    Args:
        price: what a work is predicted to cost; asked again when a work is reduced.
        slice_seconds, max_rows: see `Slice`.
        aging_seconds: see above.
    """

    def __init__(
        self, price: Callable[[W], Price], *, slice_seconds: float, max_rows: int, aging_seconds: float
    ) -> None:
        self._price = price
        self._slice_seconds = slice_seconds
        self._max_rows = max_rows
        self._aging_seconds = aging_seconds
        self._heap: list[tuple[int, float, int, Job[W, R]]] = []
        self._seconds: defaultdict[tuple[int, bool], float] = defaultdict(float)  # (level, has a deadline) -> queued
        self._arrivals = 0
        self._next_aging = -math.inf
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def seconds(self) -> float:
        """Predicted for all that waits."""
        return sum(self._seconds.values())

    def seconds_before(self, priority: int, timed: bool) -> float:
        """Predicted for what goes before a new job, `timed` if it has a deadline; later deadlines are counted too."""
        return sum(
            seconds
            for (level, has_deadline), seconds in self._seconds.items()
            if level < priority or (level == priority and (has_deadline or not timed))
        )

    def jobs(self) -> list[Job[W, R]]:
        """All that wait, in no order."""
        return [job for *_, job in self._heap if job.state == "queued"]

    def add(self, job: Job[W, R]) -> None:
        """Queue a new job, or one of which a slice has computed a portion."""
        if not job.arrival:
            self._arrivals += 1
            job.arrival = self._arrivals
        job.state = "queued"
        self._size += 1
        self._seconds[job.level, job.deadline is not None] += job.seconds
        heapq.heappush(self._heap, _entry(job))

    def remove(self, job: Job[W, R]) -> bool:
        """Take `job` out, for good; False if it does not wait. Its entry goes later, in bulk."""
        if job.state != "queued":
            return False
        self._leave(job)
        job.state = "done"
        if not self._size:
            self._heap.clear()
        elif len(self._heap) > 64 and len(self._heap) > 2 * self._size:
            self._rebuild()
        return True

    def take(self, now: float) -> tuple[Slice[W, R], list[Job[W, R]]]:
        """The next slice, whose jobs are running from here on, and jobs whose deadline has passed or can't be met."""
        if now >= self._next_aging:
            self._age(now)
        taken: Slice[W, R] = Slice(self._slice_seconds, self._max_rows, now)
        late, passed_over = [], []
        while self._heap:
            entry = self._heap[0]
            job = entry[-1]
            if job.state == "queued":
                if (job.deadline is not None and job.deadline <= now) or not self._fit(job, now + taken.seconds):
                    self._leave(job)
                    job.state = "done"
                    late.append(job)
                else:
                    answer = taken.offer(job)
                    if answer == "full":
                        break  # no smaller one may overtake it: else it could wait for ever
                    if answer == "one large is enough":
                        passed_over.append(entry)
                    else:
                        self._leave(job)
                        job.state = "running"
            heapq.heappop(self._heap)
        for entry in passed_over:
            heapq.heappush(self._heap, entry)
        taken.fill_up()
        return taken, late

    def _fit(self, job: Job[W, R], start: float) -> bool:
        """Reduce a job that would miss its deadline, begun at `start`. False: it would, and can't be reduced."""
        if job.due is None:
            return True
        left, needed = job.due - start, job.price.call + job.seconds
        if job.reduce is None:
            return needed <= left  # without the margin: what was accepted is given up only if it is more likely late
        if needed * job.price.margin <= left:
            return True
        work = job.reduce(job.work, left, job.done)
        if work is not job.work:
            self._seconds[job.level, True] -= job.seconds
            job.work, job.price = work, self._price(work)
            self._seconds[job.level, True] += job.seconds
        return True

    def _leave(self, job: Job[W, R]) -> None:
        self._size -= 1
        self._seconds[job.level, job.deadline is not None] -= job.seconds
        if not self._size:
            self._seconds.clear()  # and the rounding of its sums with it

    def _age(self, now: float) -> None:
        self._next_aging = now + self._aging_seconds
        for job in self.jobs():
            job.level = job.priority - int((now - job.submitted) / self._aging_seconds)
        self._rebuild()

    def _rebuild(self) -> None:
        jobs = self.jobs()
        self._seconds.clear()
        for job in jobs:
            self._seconds[job.level, job.deadline is not None] += job.seconds
        self._heap = [_entry(job) for job in jobs]
        heapq.heapify(self._heap)


def _entry(job: Job[W, R]) -> tuple[int, float, int, Job[W, R]]:
    return job.level, math.inf if job.deadline is None else job.deadline, job.arrival, job
