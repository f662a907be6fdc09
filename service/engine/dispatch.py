"""What the scheduler's worker thread is handed: requests, each for an engine, and errands. Runs a slice of them.

portions of a slice -> grouped by engine -> Engine.run for each group

An engine that raises ends the call: the scheduler then runs each portion by itself, and a fault is its own request's.

The worker keeps its last slice until the next one comes. So that this keeps no policy in memory, an `Assignment` only
knows its engine (the request holds its model until it is answered), and an `Errand` lets go of its call and its result.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from service.engine.engine import Engine
from service.errors import ClientGone
from service.sample import Work
from service.scheduling.job import Portion, Price, Reduce

T = TypeVar("T")


class Assignment:
    """A request's work, and the engine that is to compute it, which somebody else must hold until it has."""

    __slots__ = ("_engine", "work")

    def __init__(self, engine: Engine, work: Work) -> None:
        self._engine = weakref.ref(engine)
        self.work = work

    @property
    def engine(self) -> Engine | None:
        """None once nobody waits for the work any more."""
        return self._engine()


class Errand(Generic[T]):
    """A call that must be made in the worker thread, since that one owns the device."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call: Callable[[], T] | None = call
        self._done: list[T] = []
        self._error: Exception | None = None

    def run(self) -> None:
        """Make the call, the first time; whatever comes of it is kept for `result`."""
        call, self._call = self._call, None
        if call is None:
            return
        try:
            self._done.append(call())
        except Exception as error:  # handed to whoever asked; the worker and its slice go on
            self._error = error

    def result(self) -> T:
        """What the call gave, once. Raises what it raised."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._done.pop()


Task = Assignment | Errand[Any]


def price(task: Task, slice_seconds: float) -> Price:
    """What `task` is predicted to cost. An errand fills a slice by itself: nobody knows how long it takes, and requests
    that wait for it in the queue can still be reduced, or told that they are late.
    """
    if isinstance(task, Errand):
        return Price(rows=1, row=slice_seconds)
    engine = task.engine
    return Price(task.work.rows) if engine is None else engine.price(task.work)


def reduced(reduce: Reduce[Work], task: Task, seconds: float, done: int) -> Task:
    """`task` with its work as `reduce` leaves it; itself if that leaves it as it is."""
    assert isinstance(task, Assignment)
    engine, work = task.engine, reduce(task.work, seconds, done)
    return task if engine is None or work is task.work else Assignment(engine, work)


def run(portions: Sequence[Portion[Task]]) -> list[Any]:
    """Run a slice; in the worker thread. Returns what `Engine.run` gives for each portion, None for an errand.

    Raises:
        Whatever an engine raises.
    """
    outcomes: list[Any] = [None] * len(portions)
    groups: dict[Engine, list[tuple[int, Portion[Work]]]] = {}
    for index, portion in enumerate(portions):
        task = portion.work
        if isinstance(task, Errand):
            task.run()
        elif (engine := task.engine) is not None:
            groups.setdefault(engine, []).append((index, Portion(task.work, *portion[1:])))
        else:
            outcomes[index] = ClientGone("nobody waits for this request any more", reason="queued")
    for engine, members in groups.items():
        computed = engine.run([portion for _, portion in members])
        for (index, _), outcome in zip(members, computed, strict=True):
            outcomes[index] = outcome
    return outcomes
