"""Warm-up's measurements for the cost model: a grid of batches, smallest first, as far as the machine gets in time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

from service.cost_model import Batch

OBSERVATIONS = (1, 16, 64)
CANDIDATES = (1, 8, 64, 512)
REPEATS = 3
SECONDS = 0.3  # then the grid ends, but for what tells the coefficients apart
FEWEST = 8


def measure(
    run: Callable[[int, int, int], None], max_steps: int, max_rows: int, clock: Callable[[], float] = time.perf_counter
) -> list[tuple[Batch, float]]:
    """Times of `run(observations, num_candidates, num_steps)`, medians in seconds.

    Args:
        run: computes such a batch.
        max_steps: the largest num_steps.
        max_rows: observations x candidates of the largest batch.
        clock: seconds.
    """
    measured: list[tuple[Batch, float]] = []
    started = clock()
    for shape in _grid(max_steps, max_rows):
        if len(measured) >= FEWEST and clock() - started > SECONDS:
            break
        run(*shape)  # the first time of a shape may allocate or compile
        seconds = statistics.median(_time(run, shape, clock) for _ in range(REPEATS))
        b, n, m = shape
        measured.append((Batch(b, b * n * m, b * n), max(seconds, 1e-9)))
    return measured


def _time(run: Callable[[int, int, int], None], shape: tuple[int, int, int], clock: Callable[[], float]) -> float:
    started = clock()
    run(*shape)
    return clock() - started


def _grid(max_steps: int, max_rows: int) -> Iterator[tuple[int, int, int]]:
    shapes = {
        (b, n, m)
        for b in OBSERVATIONS
        for n in CANDIDATES
        for m in (1, max(1, max_steps // 2), max_steps)
        if b * n <= max(max_rows, 1)
    } or {(1, 1, 1)}
    return iter(sorted(shapes, key=lambda shape: (shape[0] * shape[1] * (shape[2] + 2), shape)))
