"""What was asked, granted and spent in the last minute: `GET /stats`, which the page at / polls.

It keeps a window of the last answers, not histograms since the start: a page shows the present, and percentiles of a
histogram are as coarse as its buckets. An answer costs one append. The summary is made on demand and kept for `FRESH`
seconds, so many open pages cost as much as one.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from service.observability.timeline import RequestTimeline

WINDOW = 60.0  # seconds
MAX_ANSWERS = 2048  # and as many errors; at more than 34 a second the window is shorter
FRESH = 0.5  # seconds
SHOWN = 16  # kinds of reduction


class _Answer(NamedTuple):
    """One answered request; its times are in seconds."""

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
        self._answers: deque[_Answer] = deque(maxlen=MAX_ANSWERS)
        self._errors: deque[_Error] = deque(maxlen=MAX_ANSWERS)
        self._made = -FRESH
        self._summary: dict[str, Any] = {}

    def record(self, timeline: RequestTimeline) -> None:
        """A request has ended. O(1)."""
        if timeline.error is not None:
            self._errors.append(_Error(self._clock(), timeline.error.code))
            return
        request, computed, times, spec = timeline.request, timeline.computed, timeline.times, timeline.spec
        assert request is not None
        assert computed is not None
        assert times is not None
        assert spec is not None
        self._answers.append(
            _Answer(
                at=self._clock(),
                model=spec.name,
                granted=(computed.num_candidates, computed.num_steps),
                asked=(request.num_candidates, request.num_steps),
                degraded=computed.degraded or "",
                queue=times.started - times.submitted,
                compute=times.finished - times.started,
                total=timeline.total_seconds,
            )
        )

    def summary(self) -> dict[str, Any]:
        """The window as plain JSON values, in milliseconds: answers by (model, N, M), reductions and failures."""
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
        # A full window reaches back to its first answer only.
        since = self._answers[0].at if len(self._answers) == MAX_ANSWERS else max(self._started, now - WINDOW)
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


def _percentiles(seconds: Iterable[float]) -> dict[str, float] | None:
    """The 50th, 95th and 99th percentile in ms. Each is one of the values: the least that so many per cent reach."""
    some = np.fromiter(seconds, np.float64) * 1e3
    if not len(some):
        return None
    p50, p95, p99 = np.percentile(some, (50, 95, 99), method="inverted_cdf").round(4).tolist()
    return {"p50": p50, "p95": p95, "p99": p99}
