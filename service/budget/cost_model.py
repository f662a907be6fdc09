"""How long a batch takes on one engine, before it is run.

    seconds = factor * (call + observation * B + actor * sum(B N M) + critic * sum(B N))

The four coefficients are fitted once, at warm-up, to measured batches; none is negative. The factor then follows what
batches take: other load on the machine, clock rates, a device that throttles. While there are none, slowness and errors
are forgotten: else requests that are refused since the machine was slow would keep it from showing that it is not.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.scheduling.job import Price

TERMS = ("call", "observation", "actor", "critic")

# A batch moves the factor by a tenth of how far it was off, and counts as off by a factor of two at most: a drift is
# followed within some thirty batches, and one stalled batch, however long, moves predictions by 7 %.
GAIN = 0.1
MOST = math.log(2)
QUIET, HALF_LIFE = 1.0, 1.0  # seconds: without batches for so long, so much of slowness and errors is forgotten


class Batch(NamedTuple):
    """What the cost of a batch depends on: sums over its requests."""

    observations: int
    actor_rows: int
    critic_rows: int


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
        self._base: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
        self._log_factor = 0.0
        self._now: tuple[float, ...] = (
            self._base
        )  # _base times the factor; one attribute, so that readers never see half an update
        self.relative_error = 0.0

    def coefficient(self, term: str) -> float:
        """Seconds of one of `TERMS`, as fitted."""
        return self._base[TERMS.index(term)]

    @property
    def factor(self) -> float:
        """How much slower batches are than at warm-up."""
        return math.exp(self._log_factor * (self._remembered() if self._log_factor > 0 else 1.0))

    def fit(self, measured: Iterable[tuple[Batch, float]]) -> None:
        """Fit the coefficients to (batch, seconds > 0), each weighted by its relative error."""
        batches, seconds = zip(*measured, strict=True)
        design = np.array([(1.0, *batch) for batch in batches])
        weighted = design / np.array(seconds)[:, None]
        solution = nonnegative_least_squares(weighted, np.ones(len(seconds)))
        self._base = tuple(solution.tolist())
        self._log_factor = 0.0
        self._now = self._base
        self._observed = self._clock()
        self.relative_error = float(np.minimum(np.abs(1 / np.maximum(weighted @ solution, 1e-9) - 1), 1).mean())

    def observe(self, batch: Batch, seconds: float) -> None:
        """Learn from a batch that took `seconds`."""
        predicted = self.seconds(batch)
        if predicted <= 0 or seconds <= 0:
            return
        ratio = seconds / predicted
        self._log_factor = math.log(self.factor)
        self.relative_error *= self._remembered()
        self._observed = self._clock()
        self.relative_error += GAIN * (min(abs(ratio - 1), 1.0) - self.relative_error)
        self._log_factor += GAIN * max(-MOST, min(MOST, math.log(ratio)))
        factor = math.exp(self._log_factor)
        self._now = tuple(factor * seconds for seconds in self._base)

    def seconds(self, batch: Batch) -> float:
        """Predicted for a batch."""
        call, observation, actor, critic = self._coefficients()
        return call + observation * batch.observations + actor * batch.actor_rows + critic * batch.critic_rows

    def price(self, observations: int, num_candidates: int, num_steps: int) -> Price:
        """Predicted for a request of B observations, N candidates and M steps."""
        call, observation, actor, critic = self._coefficients()
        return Price(
            rows=observations * num_candidates,
            row=actor * num_steps + critic,
            fixed=observation * observations,
            call=call,
            margin=self._margin(),
        )

    def within(self, observations: int, seconds: float) -> Callable[[int, int], bool]:
        """Does a request of B observations, alone, with N and M and the margin, take `seconds` at most?"""
        call, observation, actor, critic = self._coefficients()
        allowance = seconds / self._margin() - call - observation * observations
        a_step, a_score = actor * observations, critic * observations
        return lambda n, m: n * (m * a_step + a_score) <= allowance

    def _remembered(self) -> float:
        """The share of slowness and errors that still counts."""
        quiet = self._clock() - self._observed - QUIET
        return 1.0 if quiet <= 0 else 0.5 ** (quiet / HALF_LIFE)

    def _margin(self) -> float:
        return 1 + self.relative_error * self._remembered()

    def _coefficients(self) -> tuple[float, ...]:
        if self._log_factor <= 0 or self._remembered() == 1:
            return self._now
        factor = self.factor
        return tuple(factor * seconds for seconds in self._base)


def nonnegative_least_squares(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """argmin |a x - b| over x >= 0, for a of few columns: the best of the plain solutions on each subset of them.

    Exact: the minimum with its zeros left out is the plain least-squares solution on the rest.
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
