"""What is computed together: a slice of the engine's time, in which no job can hold up the others for long.

By prediction a slice takes no more than `slice_seconds`, and ends by the earliest deadline among the jobs it completes
in time.
Jobs of more than half a slice are large. A slice holds a portion of one of them, at most half a slice, so that small
jobs behind it go along. Time that these leave is not filled up: they are done the earlier, and what keeps sending small
requests meets the large one's next slice at its beginning. A large job that has the slice for itself takes all of it.
"""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

from service.scheduling.job import Job, Portion

W = TypeVar("W")
R = TypeVar("R")

MIN_ROWS = 16  # a call of the native engine costs as much as six rows of four steps: 73 us, and 12 us a row (3 x 256)


class Slice(Generic[W, R]):
    """A slice being filled at `now`, in the order of offers.

    The predicted time, with its margin, passes `slice_seconds` in two cases only: `MIN_ROWS` of the first job take
    longer, or the call of an engine by itself takes half of it.

    Attributes:
        jobs, portions: which, and what part of each.
        seconds: predicted.
    """

    def __init__(self, slice_seconds: float, max_rows: int, now: float) -> None:
        self.jobs: list[Job[W, R]] = []
        self.portions: list[Portion[W]] = []
        self.seconds = 0.0
        self._slice_seconds = self._limit = slice_seconds
        self._half = slice_seconds / 2
        self._max_rows = max_rows
        self._now = now
        self._rows = 0
        self._large: int | None = None

    def offer(self, job: Job[W, R]) -> Literal["taken", "full", "one large is enough"]:
        """Take `job`, or a portion of it. Once full, a slice stays full."""
        price, left = job.price, job.price.rows - job.done
        if not self.jobs:  # what predictions are off by must fit as well
            self._limit = self._slice_seconds / price.margin
            self._half = self._limit / 2
        spare = self._limit - self.seconds - (0.0 if self.jobs else price.call)
        spare_rows = self._max_rows - self._rows
        if job.seconds > self._half or left > max(1, self._max_rows // 2):
            if self._large is not None:
                return "one large is enough"
            rows = min(price.rows_within(min(self._half, spare)), max(1, self._max_rows // 2), spare_rows, left)
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
        self.seconds += price.fixed + rows * price.row + (0.0 if self.jobs else price.call)
        self._rows += rows
        self.jobs.append(job)
        self.portions.append(Portion(job.work, job.done, job.done + rows, job.carry))
        if job.due is not None and rows == left and job.due - self._now >= self.seconds:  # else it is late anyway
            self._limit = min(self._limit, job.due - self._now)
        return "taken"

    def fill_up(self) -> None:
        """Give the large job the time and rows that nobody took, if it has the slice for itself."""
        if self._large is None or len(self.jobs) > 1:
            return
        price, portion = self.jobs[self._large].price, self.portions[self._large]
        spare = price.rows_within(self._limit - self.seconds + price.fixed)
        rows = min(spare, self._max_rows - self._rows, price.rows - portion.stop)
        self.portions[self._large] = portion._replace(stop=portion.stop + rows)
        self.seconds += rows * price.row
        self._rows += rows
