"""What became of one request for an action. It is filled in on the way; metrics, traces, the log and /stats read it at
the end.
"""

from __future__ import annotations

from collections.abc import Iterator

from policy import PolicySpec
from service.errors import InternalError, ServiceError
from service.protocol import ActRequest, ProtocolName
from service.sample import SampleReply, SampleRequest
from service.timing import Deadline, JobTimes

_FAULT = InternalError("neither answered nor refused")


class RequestTimeline:
    """One request. Times are seconds on time.monotonic; they are 0.0, and the rest None, until it has come that far.

    Attributes:
        protocol: in which it came.
        key: the name of the key that it brought, where one is wanted.
        received: the event loop began to read it.
        encoding: its reply was there and was about to be encoded.
        ended: its reply, or its error, was encoded.
        request, spec: what was asked, of which policy.
        deadline: when it must be done.
        granted: the request to the engine as it was queued.
        times: of its job in the scheduler.
        computed: the request as it was computed, possibly with less N or M than `granted`.
        reply: from the engine.
        error: what it ended with in place of a reply; None: it was answered.
    """

    __slots__ = (
        "computed", "deadline", "encoding", "ended", "error", "granted", "key", "protocol", "received", "reply",
        "request", "spec", "times",
    )  # fmt: skip

    def __init__(self, received: float) -> None:
        self.protocol: ProtocolName = "http"
        self.key: str | None = None
        self.received = received
        self.encoding = self.ended = 0.0
        self.request: ActRequest | None = None
        self.spec: PolicySpec | None = None
        self.deadline: Deadline | None = None
        self.granted: SampleRequest | None = None
        self.times: JobTimes | None = None
        self.computed: SampleRequest | None = None
        self.reply: SampleReply | None = None
        self.error: ServiceError | None = _FAULT

    @property
    def total_seconds(self) -> float:
        """From receipt to the encoded reply."""
        return self.ended - self.received

    def phases(self) -> Iterator[tuple[str, float, float]]:
        """(name, begin, end) of the phases it went through. The one in which it failed lasts until `ended`."""
        times, ended = self.times, self.ended
        yield "receive", self.received, ended if times is None else times.submitted
        if times is not None:
            yield "queue", times.submitted, times.started or ended
            if times.started:
                yield "compute", times.started, times.finished or ended
        if self.encoding:
            yield "serialise", self.encoding, ended
