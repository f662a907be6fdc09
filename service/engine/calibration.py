"""Warm-up's measurements for the cost model: a grid of batches, smallest first, until the time for it is spent."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from service.timing import BatchSize

OBSERVATIONS = (1, 16, 64)
CANDIDATES = (1, 8, 64, 512)
REPEATS = 3  # timed runs of a shape, of which the median counts
BUDGET_SECONDS = 0.3  # once measuring has taken this long, the rest of the grid is skipped
MIN_SHAPES = 8  # but these many, the smallest, are always measured: fewer do not tell the four coefficients apart

Shape = tuple[int, int, int]
"""(observations, num_candidates, num_steps) of a batch."""


class Calibration:
    """Times batches, one shape a call, so that other work can run between the calls.

    Args:
        run: computes a batch of a shape.
        max_steps: the largest num_steps.
        max_rows: observations x candidates of the largest batch.
        clock: seconds.

    Attributes:
        shapes: for `measure`, in this order.
        measured: (size, median seconds) of the batches so far.
    """

    def __init__(
        self,
        run: Callable[[int, int, int], None],
        max_steps: int,
        max_rows: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._run = run
        self._clock = clock
        self._spent = 0.0
        self.shapes = _grid(max_steps, max_rows)
        self.measured: list[tuple[BatchSize, float]] = []

    def measure(self, shape: Shape) -> None:
        """Time a shape, if there is time for it."""
        if len(self.measured) >= MIN_SHAPES and self._spent > BUDGET_SECONDS:
            return
        first = self._time(shape)  # may allocate or compile
        seconds = [self._time(shape) for _ in range(REPEATS)]
        self._spent += first + sum(seconds)
        observations, n, m = shape
        size = BatchSize(observations, observations * n * m, observations * n)
        self.measured.append((size, max(statistics.median(seconds), 1e-9)))

    def _time(self, shape: Shape) -> float:
        started = self._clock()
        self._run(*shape)
        return self._clock() - started


def _grid(max_steps: int, max_rows: int) -> list[Shape]:
    """All shapes, in ascending order of the work in them."""
    steps = {1, max(1, max_steps // 2), max_steps}
    shapes = {(b, n, m) for b in OBSERVATIONS for n in CANDIDATES for m in steps if b * n <= max_rows}
    return sorted(shapes, key=lambda shape: (shape[0] * shape[1] * (shape[2] + 2), shape))
