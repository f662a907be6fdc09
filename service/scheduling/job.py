"""A job: one accepted request as the scheduler holds it, from `submit` until its future ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from service.sample import RequestPart, SampleReply, SampleRequest
from service.timing import CostEstimate, Deadline, JobTimes


class Engine(Protocol):
    """What computes requests, as far as the scheduler knows it."""

    def estimate(self, request: SampleRequest) -> CostEstimate:
        """Predicted cost of `request`. From any thread."""
        ...

    def run(self, parts: list[RequestPart]) -> Sequence[object]:
        """Compute a batch, in the worker thread. Returns a result for each part, in order.

        The result of a request's last part is its `SampleReply`. That of an earlier part is the `partial` of the next
        one. A `ServiceError` in place of either fails its own request only. A call that raises must leave no trace:
        its parts are run again one by one.
        """
        ...


ReduceBudget = Callable[[SampleRequest, float, int], SampleRequest | None]
"""(request, seconds, rows computed already) -> the request with the best N and M that fit into `seconds`, or the least
there is; the same object if nothing changes. None: it must not be less."""


class Job:
    """One accepted request. Times are seconds on the scheduler's clock; `future` belongs to the event loop.

    Attributes:
        request: as granted; with less N or M after `reduce_budget`.
        engine: what computes it.
        estimate: its predicted cost, for `request` as it is.
        deadline: None: whenever it is ready.
        reduce_budget: how to spend less when the deadline would be missed; None: N and M are exact.
        level: its priority, less what it has gained by waiting.
        rows_done, partial: rows computed so far, and what the engine returned for them.
        times: when it was submitted, started and finished.
        predicted_finish: when its compute was predicted to end, at the time it was submitted.
        abandoned: its client hung up while a batch held it.
    """

    __slots__ = (
        "abandoned", "arrival", "deadline", "engine", "estimate", "future", "level", "partial", "predicted_finish",
        "priority", "reduce_budget", "request", "rows_done", "state", "timer", "times",
    )  # fmt: skip

    def __init__(
        self,
        request: SampleRequest,
        engine: Engine,
        future: asyncio.Future[SampleReply],
        *,
        priority: int = 5,
        deadline: Deadline | None = None,
        reduce_budget: ReduceBudget | None = None,
        submitted: float = 0.0,
    ) -> None:
        self.request = request
        self.engine = engine
        self.estimate = engine.estimate(request)
        self.future = future
        self.priority = self.level = priority
        self.deadline = deadline
        self.reduce_budget = reduce_budget
        self.times = JobTimes(submitted)
        self.state: Literal["queued", "running", "done"] = "queued"
        self.abandoned = False
        self.rows_done = self.arrival = 0
        self.partial: object | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.predicted_finish = 0.0

    @property
    def seconds(self) -> float:
        """Predicted compute that is left, without the engine's call."""
        return self.estimate.seconds(self.rows_done)

    @property
    def rows_left(self) -> int:
        """Network rows not computed yet."""
        return self.estimate.rows - self.rows_done

    def reduce(self, request: SampleRequest) -> None:
        """Go on with `request`, which has less N or M."""
        self.request = request
        self.estimate = self.engine.estimate(request)
