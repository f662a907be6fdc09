"""What the scheduler's worker thread is handed: requests, each for an engine, and errands. Runs a batch of them.

requests of a batch -> grouped by engine -> Engine.run for each group; a group that raises fails its own requests only

The worker keeps its last batch until the next one comes. So that this keeps no policy in memory, an `Assignment` only
knows its engine (the request holds its model until it is answered), and an `Errand` lets go of its call and its result.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from service.engine import Engine, Outcome, Work
from service.errors import ClientGone, EngineFailed, ServiceError

log = logging.getLogger(__name__)

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
        except Exception as error:  # handed to whoever asked; the worker and its batch go on
            self._error = error

    def result(self) -> T:
        """What the call gave, once. Raises what it raised."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._done.pop()


Task = Assignment | Errand[Any]


def run(tasks: Sequence[Task]) -> list[Outcome | ServiceError | None]:
    """Run a batch; in the worker thread. Returns an outcome for each task, None for an errand."""
    outcomes: list[Outcome | ServiceError | None] = [None] * len(tasks)
    groups: dict[Engine, list[tuple[int, Work]]] = {}
    for index, task in enumerate(tasks):
        if isinstance(task, Errand):
            task.run()
        elif (engine := task.engine) is not None:
            groups.setdefault(engine, []).append((index, task.work))
        else:
            outcomes[index] = ClientGone("nobody waits for this request any more")
    for engine, members in groups.items():
        computed = _outcomes(engine, [work for _, work in members])
        for (index, _), outcome in zip(members, computed, strict=True):
            outcomes[index] = outcome
    return outcomes


def _outcomes(engine: Engine, works: list[Work]) -> Sequence[Outcome | ServiceError]:
    try:
        return engine.run(works)
    except Exception:
        # Whatever a backend, a driver or an allocator raises: other engines' requests in this batch know nothing of it.
        log.exception("%s failed a batch of %d requests", engine.name, len(works))
        return [EngineFailed("the engine failed; the server's log has the traceback") for _ in works]
