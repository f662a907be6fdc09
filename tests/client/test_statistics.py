import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sorl_client.statistics import jerk, percentiles, wilson_interval

COUNTS = st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(COUNTS, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_agrees_with_scipy(counts, level):
    from scipy.stats import norm

    successes, episodes = counts
    expected = binomtest(successes, episodes).proportion_ci(level, method="wilson")
    low, high = wilson_interval(successes, episodes, float(norm.ppf(0.5 + level / 2)))
    assert low == pytest.approx(expected.low, abs=1e-12)
    assert high == pytest.approx(expected.high, abs=1e-12)


def test_wilson_agrees_with_published_values():
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3 (score).
    for (successes, episodes), expected in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        assert wilson_interval(successes, episodes) == pytest.approx(expected, abs=5e-5)


@given(COUNTS, st.floats(0, 10))
def test_wilson_contains_the_rate_and_stays_in_the_unit_interval(counts, z):
    low, high = wilson_interval(*counts, z)
    assert 0.0 <= low <= counts[0] / counts[1] <= high <= 1.0


@pytest.mark.parametrize("arguments", [(0, 0), (-1, 5), (6, 5), (1, 2, math.nan), (1, 2, -1.0)])
def test_wilson_refuses_impossible_counts(arguments):
    with pytest.raises(ValueError, match=r"need 0|z must"):
        wilson_interval(*arguments)


def test_percentiles_are_measured_values():
    values = list(range(1, 101))
    assert percentiles(values[::-1], (0, 50, 95, 99, 100)) == (1, 50, 95, 99, 100)
    assert percentiles([7.0], (50, 99)) == (7.0, 7.0)
    with pytest.raises(ValueError, match="no values"):
        percentiles([], (50,))


def test_jerk_of_a_parabola_is_its_second_derivative_at_any_rate():
    for hz in (10.0, 50.0):
        t = np.arange(20)[:, None] / hz
        actions = t**2 * np.array([1.5, 2.0])  # second derivative (3, 4), norm 5
        assert jerk([actions], hz) == pytest.approx(5.0)


def test_jerk_of_a_straight_line_is_zero_and_differences_do_not_span_episodes():
    line = np.arange(5, dtype=np.float32)[:, None]
    assert jerk([line, line + 100.0], 20.0) == 0.0


def test_jerk_pools_differences_not_episodes():
    # One difference of norm 4, and three of 0.
    assert jerk([np.array([[0.0], [0.0], [4.0]]), np.zeros((5, 1))], 1.0) == 1.0


def test_jerk_of_two_actions_is_zero():
    assert jerk([np.array([[0.0], [9.0]])], 10.0) == 0.0
