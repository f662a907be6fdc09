"""Warm-up's measurements for the cost model: a grid of batches, smallest first, as far as the time for it goes."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial

from service.timing import BatchSize

OBSERVATIONS = (1, 16, 64)
CANDIDATES = (1, 8, 64, 512)
REPEATS = 3  # timed runs of a shape, after one that may allocate or compile; their median counts
BUDGET_SECONDS = 0.3  # once measuring has taken this long, the rest of the grid is skipped
MIN_SHAPES = 8  # but these many, the smallest, are always measured: fewer do not tell the four coefficients apart

Shape = tuple[int, int, int]
"""(observations, num_candidates, num_steps) of a batch."""


class Calibration:
    """Times batches in steps that are no longer than a batch, so that other work can run between them.

    A shape that would take longer than `max_seconds` is skipped, as the last one measured predicts: the scheduler makes
    no such batches, and a step of a reload must not hold up requests for longer than a batch does.

    Args:
        run: computes a batch of a shape.
        max_steps: the largest num_steps.
        max_rows: observations x candidates of the largest batch.
        max_seconds: of the longest batch.
        clock: seconds.
    """

    def __init__(
        self,
        run: Callable[[int, int, int], None],
        max_steps: int,
        max_rows: int,
        max_seconds: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._run = run
        self._max_seconds = max_seconds
        self._clock = clock
        self._spent = 0.0
        self._seconds: defaultdict[Shape, list[float]] = defaultdict(list)
        self._shapes = _grid(max_steps, max_rows)

    def steps(self) -> Iterator[Callable[[], None]]:
        """The steps, in order. Each must have been called before the next one is asked for."""
        for shape in self._shapes:
            if self._affordable(shape):
                while len(self._seconds[shape]) < 1 + REPEATS:
                    yield partial(self._time, shape)

    @property
    def measured(self) -> list[tuple[BatchSize, float]]:
        """(size, median seconds) of the batches so far."""
        return [
            (_size(shape), max(statistics.median(seconds[1:]), 1e-9))
            for shape, seconds in self._seconds.items()
            if len(seconds) == 1 + REPEATS
        ]

    def _time(self, shape: Shape) -> None:
        """Run a shape as often as there is still need, and time in one step."""
        runs, spent = self._seconds[shape], 0.0
        while len(runs) < 1 + REPEATS and (not spent or spent + runs[-1] <= self._max_seconds):
            started = self._clock()
            self._run(*shape)
            runs.append(self._clock() - started)
            spent += runs[-1]
        self._spent += spent

    def _affordable(self, shape: Shape) -> bool:
        if len(self._seconds) < MIN_SHAPES:
            return True
        last = next(reversed(self._seconds))
        predicted = min(self._seconds[last]) * _work(shape) / _work(last)
        return self._spent <= BUDGET_SECONDS and predicted <= self._max_seconds


def _size(shape: Shape) -> BatchSize:
    observations, n, m = shape
    return BatchSize(observations, observations * n * m, observations * n)


def _work(shape: Shape) -> int:
    """Roughly proportional to the time of large batches."""
    return shape[0] * shape[1] * (shape[2] + 2)


def _grid(max_steps: int, max_rows: int) -> list[Shape]:
    """All shapes, in ascending order of the work in them."""
    steps = {1, max(1, max_steps // 2), max_steps}
    shapes = {(b, n, m) for b in OBSERVATIONS for n in CANDIDATES for m in steps if b * n <= max_rows}
    return sorted(shapes, key=lambda shape: (_work(shape), shape))
