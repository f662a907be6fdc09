"""Comparisons of success rates and means: intervals, tests, and the verdict that they support."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from sorl_client.statistics import wilson_interval

Verdict = Literal["holds", "reversed", "not separated"]
LEVEL = 0.05
"""Significance level of a verdict."""


@dataclass(frozen=True)
class Paired:
    """Success of A and B on the same episodes: how many both solved, A alone, B alone, and neither."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @classmethod
    def of(cls, a: Sequence[int], b: Sequence[int]) -> Paired:
        """From outcomes, 0 or 1, of the same episodes in the same order.

        Raises:
            ValueError: the lengths differ, or are 0.
        """
        pairs = list(zip(a, b, strict=True))
        if not pairs:
            raise ValueError("a paired comparison needs at least one episode")
        return cls(*(sum((bool(x), bool(y)) == kind for x, y in pairs) for kind in _KINDS))

    @property
    def episodes(self) -> int:
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def difference(self) -> float:
        """Success of A minus success of B, in [-1, 1]."""
        return (self.only_a - self.only_b) / self.episodes

    @property
    def p_value(self) -> float:
        """p-value of the two-sided exact McNemar test. Null hypothesis: half of those that one alone solved are A's."""
        return sign_test(self.only_a, self.only_b)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the difference.

        Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired data",
        Statistics in Medicine 17 (1998), method 10: Wilson intervals of A and B, combined by their correlation.
        """
        n = self.episodes
        a, b = (self.both + self.only_a) / n, (self.both + self.only_b) / n
        (low_a, high_a), (low_b, high_b) = (wilson_interval(round(rate * n), n) for rate in (a, b))
        phi = self._correlation()

        def half(one: float, other: float) -> float:
            return math.sqrt(max(0.0, one * one + other * other - 2 * phi * one * other))

        difference = self.difference
        low = difference - half(a - low_a, high_b - b)
        high = difference + half(high_a - a, b - low_b)
        return max(-1.0, low), min(1.0, high)

    @property
    def verdict(self) -> Verdict:
        """Verdict on "A succeeds more often than B"; decided only if the interval excludes 0 and p < `LEVEL`."""
        low, high = self.interval
        if self.p_value >= LEVEL or low <= 0.0 <= high:
            return "not separated"
        return "holds" if low > 0.0 else "reversed"

    def _correlation(self) -> float:
        """Newcombe's estimate of phi: 0 if a margin is empty, with a continuity correction if positive."""
        margins = (
            (self.both + self.only_a)
            * (self.only_b + self.neither)
            * (self.both + self.only_b)
            * (self.only_a + self.neither)
        )
        if margins == 0:
            return 0.0
        determinant = self.both * self.neither - self.only_a * self.only_b
        if determinant > 0:
            return max(determinant - self.episodes / 2, 0.0) / math.sqrt(margins)
        return determinant / math.sqrt(margins)


_KINDS = ((True, True), (True, False), (False, True), (False, False))


def sign_test(plus: int, minus: int) -> float:
    """p-value of the two-sided exact sign test, `plus` against `minus` with equal odds; 1 if both are 0."""
    n, k = plus + minus, min(plus, minus)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, 2 * tail / (1 << n))


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval, by the normal approximation; unbounded for a single value."""
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2:
        return float(array.mean()), -math.inf, math.inf
    mean, half = float(array.mean()), 1.959963984540054 * float(array.std(ddof=1)) / math.sqrt(len(array))
    return mean, mean - half, mean + half


def separation(scores: Sequence[float], success: Sequence[int]) -> float | None:
    """Area under the ROC curve: the probability that a success scores higher than a failure, ties counting half.

    0.5 is chance, 1 a perfect ranking. None if all episodes ended alike.
    """
    values, won = np.asarray(scores, dtype=np.float64), np.asarray(success, dtype=bool)
    wins, losses = values[won], values[~won]
    if not len(wins) or not len(losses):
        return None
    above = (wins[:, None] > losses[None, :]).mean() + 0.5 * (wins[:, None] == losses[None, :]).mean()
    return float(above)


def correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Pearson's correlation; None if `x` or `y` is constant."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(a) < 2 or a.std() == 0.0 or b.std() == 0.0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def area_over_compute(success: Mapping[tuple[int, int], float]) -> float | None:
    """Area under success over log compute: the mean, over log(N x M) from 1 to the most measured, of the highest
    success among the cells of no more compute.

    Args:
        success: by (N, M).

    Returns:
        In [0, 1]; None without (1, 1), or with no other compute.
    """
    best: dict[int, float] = {}
    reached = 0.0
    for compute, found in sorted((n * m, found) for (n, m), found in success.items()):
        best[compute] = reached = max(reached, found)
    if min(best, default=0) != 1 or len(best) == 1:
        return None
    spans = ((best[less], math.log(more / less)) for less, more in pairwise(best))
    return sum(height * width for height, width in spans) / math.log(max(best))
