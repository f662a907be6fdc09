"""How requests with deadlines fared: under reloads, under restarts, and the rest of the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bench.drill.ledger import Answer, Ledger

Fault = Literal["reload", "broken reload", "restart"]
When = Literal["a restart", "a reload", "neither"]


@dataclass(frozen=True)
class Injected:
    """A fault, and when it began and was over, in the event loop's seconds."""

    fault: Fault
    begin: float
    end: float


def deadline_rows(ledger: Ledger, faults: Sequence[Injected]) -> list[dict[str, Any]]:
    """The report's rows about requests with deadlines.

    A row is of the final attempts that were open under a restart, under a reload (damaged files included) but no
    restart, or under neither. `late` are replies with status 200 after their deadline, by the client's clock. Latencies
    are of all statuses.
    """
    answers = [answer for all_of_one in ledger.answers.values() for answer in all_of_one if answer.request.deadline_ms]
    return [_row(when, [answer for answer in answers if _when(answer, faults) == when]) for when in _ORDER]


_ORDER: tuple[When, ...] = ("a restart", "a reload", "neither")


def _when(answer: Answer, faults: Sequence[Injected]) -> When:
    met = {fault.fault for fault in faults if fault.begin <= answer.received and answer.sent <= fault.end}
    return "a restart" if "restart" in met else "a reload" if met else "neither"


def _row(when: When, answers: Sequence[Answer]) -> dict[str, Any]:
    milliseconds = [1e3 * (answer.received - answer.sent) for answer in answers]
    ok = [(answer, ms) for answer, ms in zip(answers, milliseconds, strict=True) if answer.reply.status == 200]
    p50, p99, worst = np.quantile(milliseconds or [np.nan], (0.5, 0.99, 1.0)).tolist()
    return {
        "under": when,
        "requests": len(answers),
        "reduced": sum(answer.granted != answer.request.budget for answer, _ in ok),
        "late": sum(ms > (answer.request.deadline_ms or 0) for answer, ms in ok),
        "504": sum(answer.reply.status == 504 for answer in answers),
        "p50 ms": p50 if answers else None,
        "p99 ms": p99 if answers else None,
        "worst ms": worst if answers else None,
    }
