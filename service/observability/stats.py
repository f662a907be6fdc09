"""What was asked, granted and taken lately: `GET /stats`, which the page at / polls.

A window of the last answers, and not histograms since the start: a page shows what is now, and percentiles of a
histogram are as coarse as its buckets. An answer costs one append. The sums are made when somebody looks, and kept for
`FRESH` seconds, so that many open pages cost what one does.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from service.protocol.schemas import ActRequest
from service.sample import Work

WINDOW = 60.0  # seconds
MOST = 2048  # answers, and as many errors: at more than 34 a second the window is shorter
FRESH = 0.5
SHOWN = 16  # kinds of reduction


class _Answer(NamedTuple):
    at: float
    model: str
    granted: tuple[int, int]
    asked: tuple[int | None, int | None]
    degraded: str
    queue: float
    compute: float
    total: float


class _Error(NamedTuple):
    at: float
    code: str


class Stats:
    """A window of answers and errors. From the event loop only.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._answers: deque[_Answer] = deque(maxlen=MOST)
        self._errors: deque[_Error] = deque(maxlen=MOST)
        self._made = -FRESH
        self._summary: dict[str, Any] = {}

    def answered(self, model: str, request: ActRequest, work: Work, timing_ms: dict[str, float]) -> None:
        """A request has its answer: `work` as computed, `timing_ms` as in the reply. O(1)."""
        asked = request.num_candidates, request.num_steps
        granted = work.num_candidates, work.num_steps
        self._answers.append(_Answer(self._clock(), model, granted, asked, work.degraded or "", **timing_ms))

    def failed(self, code: str) -> None:
        """A request ended in an error. O(1)."""
        self._errors.append(_Error(self._clock(), code))

    def summary(self) -> dict[str, Any]:
        """The window as plain JSON values, milliseconds: what was answered by (model, N, M), reduced, and failed."""
        now = self._clock()
        if now - self._made >= FRESH:
            self._made, self._summary = now, self._summarise(now)
        return self._summary

    def _summarise(self, now: float) -> dict[str, Any]:
        for ended in (self._answers, self._errors):
            while ended and ended[0].at < now - WINDOW:
                ended.popleft()
        by_budget: dict[tuple[str, tuple[int, int]], list[_Answer]] = defaultdict(list)
        for answer in self._answers:
            by_budget[answer.model, answer.granted].append(answer)
        reduced = Counter((a.model, a.asked, a.granted, a.degraded) for a in self._answers if a.degraded)
        # A full window goes back to its first answer only.
        since = self._answers[0].at if len(self._answers) == MOST else max(self._started, now - WINDOW)
        return {
            "window_seconds": round(now - since, 3),
            "answered": len(self._answers),
            "failed": dict(Counter(error.code for error in self._errors)),
            "latency_ms": _percentiles(answer.total for answer in self._answers),
            "budgets": [
                {
                    "model": model,
                    **_budget(granted),
                    "answered": len(answers),
                    "reduced": sum(bool(answer.degraded) for answer in answers),
                    "total_ms": _percentiles(answer.total for answer in answers),
                    "queue_ms": _percentiles(answer.queue for answer in answers),
                    "compute_ms": _percentiles(answer.compute for answer in answers),
                }
                for (model, granted), answers in sorted(by_budget.items())
            ],
            "reduced": [
                {"model": model, "asked": _budget(asked), "granted": _budget(granted), "reason": reason, "count": count}
                for (model, asked, granted, reason), count in reduced.most_common(SHOWN)
            ],
        }


def _budget(budget: tuple[int | None, int | None]) -> dict[str, int | None]:
    return {"num_candidates": budget[0], "num_steps": budget[1]}


def _percentiles(values: Iterable[float]) -> dict[str, float] | None:
    """The 50th, 95th and 99th: of the values there are, the least that so many per cent do not exceed."""
    some = np.fromiter(values, np.float64)
    if not len(some):
        return None
    p50, p95, p99 = np.percentile(some, (50, 95, 99), method="inverted_cdf").tolist()
    return {"p50": p50, "p95": p95, "p99": p99}
