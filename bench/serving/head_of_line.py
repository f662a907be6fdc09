"""Section head-of-line: what a small request waits for when large ones are being computed."""

from __future__ import annotations

import statistics
from typing import Any

from bench import wrk
from bench.serving.setup import Setup

SMALL, LARGE = (1, 1), (256, 8)
LARGE_CLIENTS = 4
SLICE_MS = 5.0
"""Longest piece of a large request that the scheduler computes in one go."""


def run(setup: Setup) -> dict[str, Any]:
    """p99 of one closed-loop client with small requests, alone and under load, against alone + two slices: one that is
    being computed when it arrives and one that was chosen before it could be."""
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
