"""Calls of the engine that survive whatever it raises: one request at fault must not take its neighbours along."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from service.errors import EngineFailed
from service.scheduling.job import Portion

log = logging.getLogger(__name__)

W = TypeVar("W")

Run = Callable[[list[Portion[W]]], Sequence[Any]]
"""A slice's portions -> as many outcomes, in order: for a work's last portion its result, for an earlier one what its
next portion is to carry, or a ServiceError that fails its own job only. It keeps nothing of a call that raises."""


class EngineCalls(Generic[W]):
    """Calls `run`, from one thread.

    Attributes:
        since: when the call began that has not come back, on `clock`; None: there is none.
        retries: slices that raised and were run request by request.
    """

    def __init__(self, run: Run[W], clock: Callable[[], float]) -> None:
        self._run = run
        self._clock = clock
        self.since: float | None = None
        self.retries = 0

    def results(self, portions: list[Portion[W]]) -> Sequence[Any]:
        """An outcome for each portion. If the call raises, each portion is run once more by itself."""
        try:
            return self._call(portions)
        except Exception:
            # The one place that must survive whatever a backend, a driver or an allocator raises.
            log.exception("a batch of %d requests failed", len(portions))
        if len(portions) == 1:
            return [_failed()]
        self.retries += 1
        return [self._alone(portion) for portion in portions]

    def _alone(self, portion: Portion[W]) -> Any:
        try:
            return self._call([portion])[0]
        except Exception:
            log.exception("a request of that batch failed alone, too")
            return _failed()

    def _call(self, portions: list[Portion[W]]) -> Sequence[Any]:
        self.since = self._clock()
        try:
            outcomes = self._run(portions)
        finally:
            self.since = None
        if len(outcomes) != len(portions):
            raise RuntimeError(f"the engine gave {len(outcomes)} outcomes for {len(portions)} requests")
        return outcomes


def _failed() -> EngineFailed:
    return EngineFailed("the engine failed; the server's log has the traceback")
