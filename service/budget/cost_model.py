"""Predicts how long a batch takes on one engine.

    seconds = factor * (call + observation * B + actor * sum(B N M) + critic * sum(B N))

The four coefficients are fitted once, at warm-up, to measured batches; none is negative. The factor then follows the
time that batches really take: other load on the machine, clock rates, a device that throttles.

While no batches come, slowness and prediction error decay. Otherwise requests refused because the machine was slow
would keep the model from seeing that it no longer is.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from service.timing import BatchSize, CostEstimate

TERMS = ("call", "observation", "actor", "critic")

# One batch moves the factor by a tenth of the prediction's error, which counts as a factor of two at most. So a drift
# is followed within some thirty batches, and one stalled batch, however long, moves predictions by 7 %.
GAIN = 0.1
MAX_LOG_ERROR = math.log(2)
QUIET, HALF_LIFE = 1.0, 1.0  # seconds without batches until slowness and error decay, and the half-life of that decay


class CostModel:
    """Predicts seconds. The worker thread writes; any thread reads.

    Attributes:
        relative_error: running mean of |measured / predicted - 1|, each counted as 1 at most.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._observed = clock()
        self._fitted: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
        self._log_factor = 0.0
        # The fitted coefficients times the factor: one attribute, so that a reader never sees half an update.
        self._current: tuple[float, ...] = self._fitted
        self.relative_error = 0.0

    def coefficient(self, term: str) -> float:
        """Seconds of one of `TERMS`, as fitted."""
        return self._fitted[TERMS.index(term)]

    @property
    def factor(self) -> float:
        """How much slower batches are now than at warm-up."""
        return math.exp(self._log_factor * (self._memory() if self._log_factor > 0 else 1.0))

    def fit(self, measured: Iterable[tuple[BatchSize, float]]) -> None:
        """Fit the coefficients to (size, seconds > 0) of batches; each batch is weighted by its relative error."""
        sizes, seconds = zip(*measured, strict=True)
        design = np.array([(1.0, *size) for size in sizes])
        weighted = design / np.array(seconds)[:, None]
        solution = nonnegative_least_squares(weighted, np.ones(len(seconds)))
        self._fitted = tuple(solution.tolist())
        self._log_factor = 0.0
        self._current = self._fitted
        self._observed = self._clock()
        self.relative_error = float(np.minimum(np.abs(1 / np.maximum(weighted @ solution, 1e-9) - 1), 1).mean())

    def observe(self, size: BatchSize, seconds: float) -> None:
        """Learn from a batch that took `seconds`."""
        predicted = self.seconds(size)
        if predicted <= 0 or seconds <= 0:
            return
        ratio = seconds / predicted
        self._log_factor = math.log(self.factor)
        self.relative_error *= self._memory()
        self._observed = self._clock()
        self.relative_error += GAIN * (min(abs(ratio - 1), 1.0) - self.relative_error)
        self._log_factor += GAIN * max(-MAX_LOG_ERROR, min(MAX_LOG_ERROR, math.log(ratio)))
        factor = math.exp(self._log_factor)
        self._current = tuple(factor * seconds for seconds in self._fitted)

    def seconds(self, size: BatchSize) -> float:
        """Predicted time of a batch."""
        call, observation, actor, critic = self._coefficients()
        return call + observation * size.observations + actor * size.actor_rows + critic * size.critic_rows

    def estimate(self, observations: int, num_candidates: int, num_steps: int) -> CostEstimate:
        """Predicted cost of a request of B observations, N candidates and M steps."""
        call, observation, actor, critic = self._coefficients()
        return CostEstimate(
            rows=observations * num_candidates,
            per_row=actor * num_steps + critic,
            fixed=observation * observations,
            per_call=call,
            margin=self._margin(),
        )

    def fits(self, observations: int, seconds: float) -> Callable[[int, int], bool]:
        """A test of (N, M): does a request of B observations take `seconds` at most, alone and with the margin?"""
        call, observation, actor, critic = self._coefficients()
        allowance = seconds / self._margin() - call - observation * observations
        a_step, a_score = actor * observations, critic * observations
        return lambda n, m: n * (m * a_step + a_score) <= allowance

    def fits_at_best(self, observations: int, seconds: float) -> Callable[[int, int], bool]:
        """The same test for a machine that is as fast as at warm-up, and a prediction without error."""
        call, observation, actor, critic = self._fitted
        return lambda n, m: call + observations * (observation + n * (m * actor + critic)) <= seconds

    def _memory(self) -> float:
        """The share of slowness and error that still counts."""
        quiet = self._clock() - self._observed - QUIET
        return 1.0 if quiet <= 0 else 0.5 ** (quiet / HALF_LIFE)

    def _margin(self) -> float:
        return 1 + self.relative_error * self._memory()

    def _coefficients(self) -> tuple[float, ...]:
        if self._log_factor <= 0 or self._memory() == 1:
            return self._current
        factor = self.factor
        return tuple(factor * seconds for seconds in self._fitted)


def nonnegative_least_squares(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """argmin |a x - b| over x >= 0, for an `a` of few columns.

    It tries the plain least-squares solution on every subset of the columns. This is exact: the minimum, without its
    zeros, is the plain solution on the remaining columns.
    """
    best, least = np.zeros(a.shape[1]), float(b @ b)
    for size in range(1, a.shape[1] + 1):
        for columns in itertools.combinations(range(a.shape[1]), size):
            x = np.linalg.lstsq(a[:, columns], b, rcond=None)[0]
            residual = a[:, columns] @ x - b
            if (x >= 0).all() and residual @ residual < least:
                least = float(residual @ residual)
                best = np.zeros(a.shape[1])
                best[list(columns)] = x
    return best
