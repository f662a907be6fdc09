"""Section head-of-line: the latency of small requests while the server computes large ones."""

from __future__ import annotations

import statistics
from typing import Any

from bench import wrk
from bench.serving.setup import Setup

SMALL, LARGE = (1, 1), (256, 8)
LARGE_CLIENTS = 4
SLICE_MS = 5.0
"""The scheduler's default time limit of one batch, in ms; it computes larger requests in several."""


def run(setup: Setup) -> dict[str, Any]:
    """Measure the p99 of one closed-loop client with small requests, without and with large requests.

    The aim is the p99 without them plus two batches: the one that is computed when the request arrives, and one that
    may already have been chosen.
    """
    found: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {}
    small, large, seconds = setup.body(*SMALL), setup.body(*LARGE), setup.config.seconds
    for _ in range(setup.config.rounds):
        for contestant in setup.fastest:
            with contestant.serving(setup.model, small) as server:
                wrk.load(server.url, small, 1, 1)
                alone = wrk.load(server.url, small, 1, seconds)
                with wrk.background(server.url, large, LARGE_CLIENTS):
                    wrk.load(server.url, small, 1, 1)
                    beside = wrk.load(server.url, small, 1, seconds)
            found.setdefault(contestant.name, []).append((alone, beside))
    return {"rows": [_row(name, pairs) for name, pairs in found.items()]}


def _row(name: str, pairs: list[tuple[dict[str, float], dict[str, float]]]) -> dict[str, Any]:
    alone = statistics.median(pair[0]["p99_ms"] for pair in pairs)
    beside = statistics.median(pair[1]["p99_ms"] for pair in pairs)
    return {
        "server": name,
        "p99 alone ms": alone,
        "p50 beside ms": statistics.median(pair[1]["p50_ms"] for pair in pairs),
        "p99 beside ms": beside,
        "aim ms": alone + 2 * SLICE_MS,
        "met": "yes" if beside <= alone + 2 * SLICE_MS else "no",
        "failed": int(sum(figures["failed"] for pair in pairs for figures in pair)),
    }
