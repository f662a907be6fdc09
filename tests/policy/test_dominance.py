"""Dominance and the best cell, against brute-force readings of their definitions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policy import Measurement, best_measured, dominating


def cell(n: int, m: int, success: float) -> Measurement:
    return Measurement(n, m, success, low=0.0, high=1.0, episodes=50)


budgets = st.tuples(st.sampled_from([1, 2, 4, 8, 64]), st.sampled_from([1, 2, 4, 8]))
grids = st.dictionaries(budgets, st.sampled_from([0.0, 0.5, 0.9, 1.0]), min_size=1).map(
    lambda found: [cell(n, m, success) for (n, m), success in found.items()]
)


@given(grids)
def test_a_cell_is_dominated_if_a_cheaper_one_measured_as_well_or_better(grid: list[Measurement]) -> None:
    rates = {(c.num_candidates, c.num_steps): c.success for c in grid}
    for (n, m), success in rates.items():
        smaller = [(a, b) for a in range(1, n + 1) for b in range(1, m + 1) if (a, b) != (n, m)]
        found = [rates[budget] for budget in smaller if rates.get(budget, -1) >= success]
        chosen = dominating(cell(n, m, success), grid)
        if not found:
            assert chosen is None
        else:
            assert chosen is not None
            assert (chosen.num_candidates, chosen.num_steps) in smaller
            assert chosen.success == rates[chosen.num_candidates, chosen.num_steps] == max(found)
            assert dominating(chosen, grid) is None  # advice that stands


@given(grids)
def test_the_best_cell_is_of_highest_success_least_compute_and_fewest_steps(grid: list[Measurement]) -> None:
    best = best_measured(grid)
    assert best is not None
    assert dominating(best, grid) is None
    for other in (c for c in grid if c is not best):
        assert other.success <= best.success
        if other.success == best.success:
            compute, least = (c.num_candidates * c.num_steps for c in (other, best))
            assert compute > least or (compute == least and other.num_steps > best.num_steps)


def test_nothing_measured_has_no_best_cell() -> None:
    assert best_measured([]) is None


def test_the_rates_alone_count() -> None:
    """The intervals of 49 and 48 of 50 episodes overlap widely."""
    better, worse = Measurement(1, 2, 0.98, 0.895, 0.996, 50), Measurement(2, 2, 0.96, 0.865, 0.989, 50)
    assert dominating(worse, [worse, better]) == better
    assert dominating(better, [worse, better]) is None


def test_of_two_budgets_of_which_neither_is_cheaper_none_dominates() -> None:
    grid = [cell(1, 4, 0.9), cell(4, 1, 0.5)]
    assert [dominating(c, grid) for c in grid] == [None, None]
