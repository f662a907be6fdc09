"""What is computed together next: a batch short enough that no request holds up the others for long.

A batch is predicted to take `slice_seconds` at most. It also ends by the earliest deadline among the jobs that it
completes in time.

A job that needs more than half of `slice_seconds` is large. A batch holds a part of one large job, at most half of
`slice_seconds` long, and the other half is for small jobs behind it. Where small jobs leave time over, the batch is
shorter: they finish earlier, and clients that send one small request after another find the next batch at its start. A
large job that has the batch to itself takes all of it.
"""

from __future__ import annotations

from typing import Literal

from service.sample import RequestPart
from service.scheduling.job import Engine, Job

# The least of a large job in a batch. A call of the native engine costs as much as six rows of four steps: 73 us for
# the call, 12 us for a row (3 x 256).
MIN_ROWS = 16


class BatchPlan:
    """A batch that is being filled at `now`, with one offer after another.

    The predicted time, with its margin, passes `slice_seconds` in two cases only: `MIN_ROWS` of the first job take
    longer, or the calls of the engines alone take half of it.

    Attributes:
        jobs, parts: the jobs in the batch, and which rows of each.
        seconds: predicted.
    """

    def __init__(self, slice_seconds: float, max_rows: int, now: float) -> None:
        self.jobs: list[Job] = []
        self.parts: list[RequestPart] = []
        self.seconds = 0.0
        self._slice_seconds = self._limit = slice_seconds
        self._half = slice_seconds / 2
        self._max_rows = max_rows
        self._now = now
        self._rows = 0
        self._engines: set[Engine] = set()
        self._large: int | None = None

    def offer(self, job: Job) -> Literal["taken", "full", "large already"]:
        """Take `job`, or part of it. Once full, a batch stays full."""
        estimate, left = job.estimate, job.rows_left
        if not self.jobs:  # the batch must allow for the prediction's error
            self._limit = self._slice_seconds / estimate.margin
            self._half = self._limit / 2
        call = 0.0 if job.engine in self._engines else estimate.per_call  # each engine is called once
        spare = self._limit - self.seconds - call
        spare_rows = self._max_rows - self._rows
        if job.seconds > self._half or left > max(1, self._max_rows // 2):
            if self._large is not None:
                return "large already"
            rows = min(estimate.rows_within(min(self._half, spare)), max(1, self._max_rows // 2), spare_rows, left)
            least = min(MIN_ROWS, self._max_rows, left)
            if rows < least:
                if self.jobs:
                    return "full"
                rows = least
            self._large = len(self.jobs)
        else:
            if self.jobs and (job.seconds > spare or left > spare_rows):
                return "full"
            rows = left
        self.seconds += call + estimate.fixed + rows * estimate.per_row
        self._rows += rows
        self._engines.add(job.engine)
        self.jobs.append(job)
        self.parts.append(RequestPart(job.request, job.rows_done, job.rows_done + rows, job.partial))
        if job.deadline is not None and rows == left:
            time_left = job.deadline.compute - self._now
            if time_left >= self.seconds:  # otherwise it is late whatever else is taken
                self._limit = min(self._limit, time_left)
        return "taken"

    def fill_up(self) -> None:
        """Give a large job that is alone in the batch the rest of the time and rows."""
        if self._large is None or len(self.jobs) > 1:
            return
        estimate, part = self.jobs[self._large].estimate, self.parts[self._large]
        spare = estimate.rows_within(self._limit - self.seconds + estimate.fixed)
        rows = min(spare, self._max_rows - self._rows, estimate.rows - part.stop)
        self.parts[self._large] = part._replace(stop=part.stop + rows)
        self.seconds += rows * estimate.per_row
        self._rows += rows
