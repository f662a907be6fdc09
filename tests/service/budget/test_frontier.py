"""The choice against a brute-force reading of the rule, and its corners one by one."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policy.dominance import best_measured, dominating
from policy.spec import Budget, Measurement
from service.budget.frontier import Frontier, unmeasured

patient = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
DEFAULT = Budget(8, 4)


def cell(n: int, m: int, success: float) -> Measurement:
    return Measurement(n, m, success, max(0.0, success - 0.1), min(1.0, success + 0.1), episodes=50)


@st.composite
def cells(draw: st.DrawFn) -> list[Measurement]:
    sizes = st.tuples(st.sampled_from([1, 2, 4, 8, 32]), st.integers(1, 8))
    found = draw(st.lists(sizes, min_size=1, max_size=12, unique=True))
    return [cell(n, m, draw(st.integers(0, 5)) / 5) for n, m in found]


def chosen_by_hand(found: list[Measurement], default: Budget, allowed: Callable[[int, int], bool]) -> Budget | None:
    left = [c for c in found if allowed(c.num_candidates, c.num_steps)]
    equals = [c for c in left if c.success == max(one.success for one in left)]
    for one in equals:
        if (one.num_candidates, one.num_steps) == (default.num_candidates, default.num_steps):
            return default
    best = best_measured(equals)
    return None if best is None else Budget(best.num_candidates, best.num_steps)


@patient
@given(cells(), st.floats(0, 300), st.sampled_from([DEFAULT, Budget(1, 1), Budget(2, 7)]))
def test_choice_is_the_rules(found: list[Measurement], seconds: float, default: Budget) -> None:
    def allowed(n: int, m: int) -> bool:
        return n * (m + 2) <= seconds

    chosen = Frontier.measured(found, default).best(allowed)
    assert chosen == chosen_by_hand(found, default, allowed)
    if chosen is not None and chosen != default:
        (granted,) = (c for c in found if (c.num_candidates, c.num_steps) == (chosen.num_candidates, chosen.num_steps))
        assert dominating(granted, found) is None


@patient
@given(cells(), st.floats(0, 300), st.integers(0, 2**16))
def test_order_of_the_file_does_not_matter(found: list[Measurement], seconds: float, seed: int) -> None:
    shuffled = random.Random(seed).sample(found, len(found))
    allowed = lambda n, m: n * (m + 2) <= seconds  # noqa: E731
    assert Frontier.measured(found, DEFAULT).best(allowed) == Frontier.measured(shuffled, DEFAULT).best(allowed)


FRONTIER = Frontier.measured(
    [
        cell(1, 1, 0.2),
        cell(1, 4, 0.6),
        cell(4, 2, 0.65),
        cell(4, 4, 0.85),
        cell(8, 4, 0.85),
        cell(16, 4, 0.85),
        cell(32, 1, 0.05),
        cell(32, 8, 0.65),
    ],
    DEFAULT,
)


@pytest.mark.parametrize(
    ("most", "chosen"),
    [
        (10_000, (8, 4)),  # the default among equals
        (31, (4, 4)),  # N M <= 31
        (15, (4, 2)),
        (7, (1, 4)),
        (3, (1, 1)),
        (0, None),
    ],
)
def test_one_frontier_by_hand(most: int, chosen: tuple[int, int] | None) -> None:
    found = FRONTIER.best(lambda n, m: n * m <= most)
    assert found == (None if chosen is None else Budget(*chosen))


def test_of_equals_that_are_no_default_the_cheapest() -> None:
    found = [cell(16, 4, 0.9), cell(4, 8, 0.9), cell(8, 4, 0.9), cell(1, 1, 0.1)]
    assert Frontier.measured(found, Budget(1, 1)).best(lambda n, m: True) == Budget(8, 4)


@patient
@given(st.integers(1, 5000), st.integers(1, 8), st.integers(1, 50_000))
def test_unmeasured_takes_candidates_first(n: int, m: int, most: int) -> None:
    chosen = unmeasured(n, m).best(lambda cell_n, cell_m: cell_n * cell_m <= most)
    assert chosen is not None
    for larger in (v for v in [n, *(2**k for k in range(13))] if chosen.num_candidates < v <= n):
        assert larger > most  # not even with one step
    for more in (v for v in (1, 2, 4, m) if chosen.num_steps < v <= m):
        assert chosen.num_candidates * more > most


def test_nothing_measured_is_false() -> None:
    assert not Frontier.measured([], DEFAULT)
    assert Frontier.measured([cell(1, 1, 0)], DEFAULT)
