"""Statistics against scipy, published values and hand calculations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, mannwhitneyu, pearsonr

from training.reporting.statistics import (
    Paired,
    area_over_compute,
    correlation,
    mean_interval,
    separation,
    sign_test,
)

COUNT = st.integers(0, 300)
TABLES = st.tuples(COUNT, COUNT, COUNT, COUNT).filter(lambda table: sum(table) > 0)


@given(COUNT, COUNT)
def test_the_sign_test_is_the_exact_binomial_test(plus: int, minus: int) -> None:
    expected = binomtest(plus, plus + minus).pvalue if plus + minus else 1.0
    assert sign_test(plus, minus) == pytest.approx(expected, rel=1e-9)


def test_the_interval_agrees_with_published_values() -> None:
    # Fagerland, Lydersen and Laake, "Statistical Analysis of Contingency Tables" (2017), chapter 8: complete response
    # before and after consolidation therapy.
    table = Paired(both=59, only_a=6, only_b=16, neither=80)
    assert table.difference == pytest.approx(-0.0621, abs=5e-5)
    assert table.interval == pytest.approx((-0.1186, -0.0046), abs=5e-5)
    assert table.p_value == pytest.approx(0.0525, abs=5e-5)


def test_an_interval_that_disagrees_with_the_test_separates_nothing() -> None:
    table = Paired(both=59, only_a=6, only_b=16, neither=80)
    assert table.interval[1] < 0
    assert table.p_value > 0.05
    assert table.verdict == "not separated"


@given(TABLES)
def test_the_interval_contains_the_difference_and_is_antisymmetric(table: tuple[int, int, int, int]) -> None:
    pair = Paired(*table)
    mirrored = Paired(pair.both, pair.only_b, pair.only_a, pair.neither)
    low, high = pair.interval
    assert -1 <= low <= pair.difference <= high <= 1
    assert mirrored.interval == pytest.approx((-high, -low), abs=1e-12)
    opposite = {"holds": "reversed", "reversed": "holds", "not separated": "not separated"}
    assert mirrored.verdict == opposite[pair.verdict]


@pytest.mark.parametrize(
    ("table", "verdict"),
    [((10, 30, 5, 5), "holds"), ((10, 5, 30, 5), "reversed"), ((10, 6, 5, 29), "not separated")],
)
def test_verdicts(table: tuple[int, int, int, int], verdict: str) -> None:
    assert Paired(*table).verdict == verdict


def test_pairs_are_counted() -> None:
    assert Paired.of([1, 1, 0, 0, 1], [1, 0, 1, 0, 0]) == Paired(1, 2, 1, 1)
    with pytest.raises(ValueError, match="at least one"):
        Paired.of([], [])
    with pytest.raises(ValueError, match="longer"):
        Paired.of([1], [1, 0])


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40))
def test_separation_is_the_normalised_mann_whitney_statistic(episodes: list[tuple[int, bool]]) -> None:
    scores, success = [float(score) for score, _ in episodes], [int(won) for _, won in episodes]
    wins = [score for score, won in episodes if won]
    losses = [score for score, won in episodes if not won]
    if not wins or not losses:
        assert separation(scores, success) is None
        return
    expected = mannwhitneyu(wins, losses).statistic / (len(wins) * len(losses))
    assert separation(scores, success) == pytest.approx(expected)


def test_correlation_and_mean_interval() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(30)
    y = x + rng.standard_normal(30)
    assert correlation(list(x), list(y)) == pytest.approx(pearsonr(x, y).statistic)
    assert correlation([1.0, 1.0], [0.0, 2.0]) is None
    # By hand: mean 2, standard deviation 1, standard error 1 / sqrt 3.
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 1.13158, 2 + 1.13158), abs=1e-4)


def test_the_area_over_compute_by_hand() -> None:
    # 0.25 up to 4 of 64, two of six doublings; then 0.5 up to 32, three; then 1.0. What is worse for more compute is
    # not taken, and what only the most compute reaches has no width.
    success = {(1, 1): 0.25, (2, 1): 0.1, (4, 1): 0.5, (1, 4): 0.4, (8, 4): 1.0, (64, 1): 0.2, (8, 8): 1.0}
    assert area_over_compute(success) == pytest.approx((2 * 0.25 + 3 * 0.5 + 1.0) / 6)
    assert area_over_compute({(1, 1): 0.3, (2, 2): 1.0}) == pytest.approx(0.3)
    assert area_over_compute({(2, 1): 0.3, (2, 2): 1.0}) is None
    assert area_over_compute({(1, 1): 0.3}) is None
    assert area_over_compute({}) is None


GRID = st.dictionaries(st.tuples(st.integers(1, 64), st.integers(1, 8)), st.floats(0, 1), min_size=1, max_size=12)


@given(GRID, st.floats(0, 1))
def test_the_area_over_compute_is_an_integral(success: dict[tuple[int, int], float], first: float) -> None:
    """Against a sum over many points, evenly spaced in log compute."""
    success[1, 1] = first
    most = max(n * m for n, m in success)
    if most == 1:
        return
    points = np.exp(np.log(most) * (np.arange(4000) + 0.5) / 4000)
    reached = [max(found for (n, m), found in success.items() if n * m <= point) for point in points]
    assert area_over_compute(success) == pytest.approx(np.mean(reached), abs=12 / 4000)
