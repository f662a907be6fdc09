"""Everything that the worker thread calls: engines, and functions that must run in that thread.

One request at fault must not take down the others of its batch, and one engine must not take down another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from service.errors import EngineFailed
from service.sample import RequestPart
from service.scheduling.job import Engine

log = logging.getLogger(__name__)

T = TypeVar("T")


class EngineCalls:
    """Makes calls from one thread, and knows since when one has been running.

    Attributes:
        since: start of the call that has not returned, on `clock`; None: there is none.
        retries: batches that raised and were run request by request.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.since: float | None = None
        self.retries = 0

    def call(self, function: Callable[[], T]) -> T:
        """`function()`. Raises what it raises."""
        self.since = self._clock()
        try:
            return function()
        finally:
            self.since = None

    def run(self, engines: Sequence[Engine], parts: Sequence[RequestPart]) -> list[object]:
        """A result for each part, from the engine at its place in `engines`. See `Engine.run`.

        If an engine raises, each of its parts is run once more by itself. A part that raises alone gets EngineFailed.
        """
        groups: dict[Engine, list[int]] = {}
        for index, engine in enumerate(engines):
            groups.setdefault(engine, []).append(index)
        results: list[object] = [None] * len(parts)
        for engine, indices in groups.items():
            computed = self._run_batch(engine, [parts[index] for index in indices])
            for index, result in zip(indices, computed, strict=True):
                results[index] = result
        return results

    def _run_batch(self, engine: Engine, parts: list[RequestPart]) -> Sequence[object]:
        try:
            return self._run(engine, parts)
        except Exception:
            # The one place that must survive whatever a backend, a driver or an allocator raises.
            log.exception("a batch of %d requests failed", len(parts))
        if len(parts) == 1:
            return [_failed()]
        self.retries += 1
        return [self._run_alone(engine, part) for part in parts]

    def _run_alone(self, engine: Engine, part: RequestPart) -> object:
        try:
            return self._run(engine, [part])[0]
        except Exception:
            log.exception("a request of that batch failed alone, too")
            return _failed()

    def _run(self, engine: Engine, parts: list[RequestPart]) -> Sequence[object]:
        results = self.call(partial(engine.run, parts))
        if len(results) != len(parts):
            raise RuntimeError(f"the engine returned {len(results)} results for {len(parts)} requests")
        return results


def _failed() -> EngineFailed:
    return EngineFailed("the engine failed; the server's log has the traceback")
