"""What the scheduler handles: a job, what it is predicted to cost, and the portion of it that goes into a slice.

A job's rows are numbered candidate by candidate: row r of a request of B observations is candidate r // B of
observation r % B. A portion is a range of them, so all observations advance together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, Literal, NamedTuple, TypeVar

W = TypeVar("W")
R = TypeVar("R")


class Price(NamedTuple):
    """Predicted seconds, on the engine that will compute.

    Attributes:
        rows: network rows, observations x candidates.
        row: of one row, all its steps and its critics.
        fixed: of the job in every slice that holds part of it.
        call: of a slice, whatever is in it.
        margin: what predictions are multiplied by where a deadline or a slice's length depends on them.
    """

    rows: int
    row: float = 0.0
    fixed: float = 0.0
    call: float = 0.0
    margin: float = 1.0

    def seconds(self, done: int = 0) -> float:
        """What is left after `done` rows, beside others in a slice."""
        return self.fixed + (self.rows - done) * self.row

    def rows_within(self, seconds: float) -> int:
        """How many rows can be computed in `seconds`."""
        spare = seconds - self.fixed
        if spare < 0:
            return 0
        return self.rows if self.row * self.rows <= spare else int(spare / self.row)


class Portion(NamedTuple, Generic[W]):
    """Rows [start, stop) of a work; `carry` is what the engine gave for the rows before them, None at the first."""

    work: W
    start: int
    stop: int
    carry: Any = None


Reduce = Callable[[W, float, int], W]
"""(work, seconds, rows computed already) -> the best of it that takes no longer, or the least there is."""


class Job(Generic[W, R]):
    """One accepted request. Times are the scheduler's clock, seconds; `future` belongs to the event loop.

    Attributes:
        work: as granted; less after `reduce`.
        deadline: when the answer is due; None: whenever it is ready.
        due: when compute must have ended for the answer to be there in time.
        reduce: how to spend less when `due` would be missed; None: the work is exact.
        done: rows computed so far.
        level: its priority, less what it has aged.
        expected: when it was predicted to be computed, as it was submitted.
    """

    __slots__ = (
        "arrival", "carry", "deadline", "done", "due", "expected", "finished", "future", "gone", "level", "price",
        "priority", "reduce", "started", "state", "submitted", "timer", "work",
    )  # fmt: skip

    def __init__(
        self,
        work: W,
        price: Price,
        future: asyncio.Future[R],
        *,
        priority: int = 5,
        deadline: float | None = None,
        due: float | None = None,
        reduce: Reduce[W] | None = None,
        submitted: float = 0.0,
        expected: float = 0.0,
    ) -> None:
        self.work = work
        self.price = price
        self.future = future
        self.priority = self.level = priority
        self.deadline = deadline
        self.due = deadline if due is None else due
        self.reduce = reduce
        self.submitted = submitted
        self.expected = expected
        self.state: Literal["queued", "running", "done"] = "queued"
        self.gone = False  # its client hung up while a slice held it
        self.done = self.arrival = 0
        self.carry: Any = None
        self.timer: asyncio.TimerHandle | None = None
        self.started = self.finished = 0.0

    @property
    def seconds(self) -> float:
        """Predicted for what is left of it."""
        return self.price.seconds(self.done)
