"""What came of every request: noted while it happens, judged afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from bench.connection import Response
from bench.drill.plan import Ask


@dataclass(frozen=True)
class Answer:
    """A final answer; times are the event loop's, seconds."""

    ask: Ask
    response: Response
    sent: float
    received: float


@dataclass
class Ledger:
    """Notes of a drill. `counts` has what happened on the way: attempts, retries, hang-ups, surplus answers, ..."""

    answers: dict[int, list[Answer]] = field(default_factory=dict)
    given_up: dict[int, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    _closed: int = 0
    _waiting: list[tuple[int, asyncio.Event]] = field(default_factory=list)

    def answered(self, answer: Answer) -> None:
        self.answers.setdefault(answer.ask.number, []).append(answer)
        self._advance()

    def gave_up(self, ask: Ask, reason: str) -> None:
        """No final answer came, and no more attempts are made."""
        self.given_up[ask.number] = reason
        self._advance()

    async def reached(self, closed: int) -> None:
        """Wait until this many requests have ended, one way or the other."""
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
