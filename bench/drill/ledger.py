"""`Ledger`: the record of every request's replies, written during the drill and judged after it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from bench.drill.plan import DrillRequest
from bench.protocols import Reply


@dataclass(frozen=True)
class Answer:
    """A final reply, and when the attempt that led to it was sent. Times are the event loop's, in seconds."""

    request: DrillRequest
    reply: Reply
    sent: float
    received: float

    @property
    def granted(self) -> tuple[int, int]:
        """N and M as a reply with status 200 names them."""
        return self.reply.fields["num_candidates"], self.reply.fields["num_steps"]


@dataclass
class Ledger:
    """The record of a drill.

    Attributes:
        answers: the final replies, by request number.
        given_up: the reason why a request has no final reply, by request number.
        counts: attempts, retries, hang-ups, surplus answers, ...
    """

    answers: dict[int, list[Answer]] = field(default_factory=dict)
    given_up: dict[int, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    _closed: int = 0
    _waiting: list[tuple[int, asyncio.Event]] = field(default_factory=list)

    def answered(self, answer: Answer) -> None:
        self.answers.setdefault(answer.request.number, []).append(answer)
        self._advance()

    def gave_up(self, request: DrillRequest, reason: str) -> None:
        """Record that a request has no final reply and is not sent again."""
        self.given_up[request.number] = reason
        self._advance()

    async def reached(self, closed: int) -> None:
        """Wait until this many requests have a final reply or were given up."""
        event = asyncio.Event()
        self._waiting.append((closed, event))
        self._wake()
        await event.wait()

    def _advance(self) -> None:
        self._closed += 1
        self._wake()

    def _wake(self) -> None:
        for closed, event in self._waiting:
            if self._closed >= closed:
                event.set()
