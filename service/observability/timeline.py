"""What became of one POST /act: filled in as it goes, read by metrics, spans and the log at its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from policy import PolicySpec
from service.budget.admission import Grant
from service.errors import InternalError, ServiceError
from service.protocol.schemas import ActRequest
from service.sample import Outcome, Work
from service.scheduling.job import Job

_FAULT = InternalError("neither answered nor refused")


class Journey:
    """One request. Times are seconds on time.monotonic; 0.0 and None until the request has come that far.

    Attributes:
        received, serialising, ended: the body was awaited, the outcome was there, the reply was encoded.
        deadline: when the reply is due, if it is.
        request, spec, grant: what was asked, of which policy, and admitted.
        job: in the queue and after it.
        work: as computed, which may be less than `grant`.
        outcome: from the engine.
        error: what the request ended with in place of a reply; None: it was answered.
    """

    __slots__ = (
        "deadline",
        "ended",
        "error",
        "grant",
        "job",
        "outcome",
        "received",
        "request",
        "serialising",
        "spec",
        "work",
    )

    def __init__(self, received: float) -> None:
        self.received = received
        self.serialising = self.ended = 0.0
        self.request: ActRequest | None = None
        self.spec: PolicySpec | None = None
        self.deadline: float | None = None
        self.grant: Grant | None = None
        self.job: Job[Any, Outcome] | None = None
        self.work: Work | None = None
        self.outcome: Outcome | None = None
        self.error: ServiceError | None = _FAULT

    def phases(self) -> Iterator[tuple[str, float, float]]:
        """(name, begin, end) of what it went through; what it ended in lasts until the end."""
        job, ended = self.job, self.ended
        yield "receive", self.received, ended if job is None else job.submitted
        if job is not None:
            yield "queue", job.submitted, job.started or ended
            if job.started:
                yield "compute", job.started, job.finished or ended
        if self.serialising:
            yield "serialise", self.serialising, ended
