"""The choice against a brute-force reading of the rule, and its corners one by one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sorl_client.statistics import wilson_interval

from policy.spec import Budget, Measurement
from service.budget.frontier import Frontier, unmeasured
from tests.service.budget.newcombe import lower_limit

patient = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])


def cell(n: int, m: int, low: float, success: float, high: float) -> Measurement:
    return Measurement(n, m, success, low, high, episodes=50)


@st.composite
def cells(draw: st.DrawFn) -> list[Measurement]:
    sizes = draw(
        st.lists(st.tuples(st.sampled_from([1, 2, 4, 8, 32]), st.integers(1, 8)), min_size=1, max_size=12, unique=True)
    )
    found = []
    for n, m in sizes:
        low, success, high = sorted(draw(st.tuples(*[st.integers(0, 20)] * 3)))
        # Powers, so that no difference is on the edge of its interval, where rounding decides.
        found.append(cell(n, m, *((value / 20) ** 1.5 for value in (low, success, high))))
    return found


def brute_force(found: list[Measurement], allowed: Callable[[int, int], bool], drop: bool) -> list[Budget]:
    """Every answer that the rule permits: several where cells of the highest success have different intervals."""
    kept = [
        c
        for c in found
        if not drop
        or not any(
            d.num_candidates <= c.num_candidates and d.num_steps <= c.num_steps and lower_limit(d, c) > 0 for d in found
        )
    ]
    kept = [c for c in kept if allowed(c.num_candidates, c.num_steps)]
    answers = []
    for best in (c for c in kept if c.success == max(k.success for k in kept)):
        tied = [c for c in kept if lower_limit(best, c) <= 0]
        top = max(tied, key=lambda c: (c.num_candidates, c.num_steps))
        answers.append(Budget(top.num_candidates, top.num_steps))
    return answers


@patient
@given(cells(), st.floats(0, 300), st.booleans())
def test_choice_is_the_rules(found: list[Measurement], seconds: float, drop: bool) -> None:
    def allowed(n: int, m: int) -> bool:
        return n * (m + 2) <= seconds

    frontier = Frontier(found)
    chosen = frontier.best(allowed) if drop else frontier.best_with(allowed)
    expected = brute_force(found, allowed, drop)
    assert chosen in expected if expected else chosen is None


@patient
@given(cells(), st.floats(0, 300), st.integers(0, 2**16))
def test_order_of_the_file_does_not_matter(found: list[Measurement], seconds: float, seed: int) -> None:
    import random

    shuffled = random.Random(seed).sample(found, len(found))
    allowed = lambda n, m: n * (m + 2) <= seconds  # noqa: E731
    assert Frontier(found).best(allowed) == Frontier(shuffled).best(allowed)


FRONTIER = Frontier(
    [
        cell(1, 1, 0.1, 0.2, 0.3),
        cell(1, 4, 0.5, 0.6, 0.7),
        cell(4, 2, 0.55, 0.65, 0.75),
        cell(4, 4, 0.80, 0.85, 0.90),
        cell(8, 4, 0.62, 0.74, 0.84),
        cell(32, 1, 0.0, 0.05, 0.09),
        cell(32, 8, 0.6, 0.65, 0.79),
    ]
)


@pytest.mark.parametrize(
    ("most", "chosen"),
    [
        (10_000, (8, 4)),  # ties with the best, (4, 4), and has more candidates; (32, 8) does not tie
        (16, (4, 4)),  # N M <= 16
        (15, (4, 2)),  # ties with (1, 4), and has more candidates
        (7, (1, 4)),
        (3, (1, 1)),
        (0, None),
    ],
)
def test_one_frontier_by_hand(most: int, chosen: tuple[int, int] | None) -> None:
    found = FRONTIER.best(lambda n, m: n * m <= most)
    assert found == (None if chosen is None else Budget(*chosen))


@pytest.mark.parametrize(
    ("better", "worse", "surely"),
    [((56, 70), (48, 80), True), ((9, 10), (3, 10), True), ((6, 7), (2, 7), True), ((5, 56), (0, 29), False)],
)
def test_surely_better_is_newcombes_interval(better: tuple[int, int], worse: tuple[int, int], surely: bool) -> None:
    """His table II, method 10: lower limits 0.0524, 0.1705, 0.0582 and -0.0381."""
    found = [
        Measurement(n, 1, won / episodes, *wilson_interval(won, episodes), episodes=episodes)
        for n, (won, episodes) in ((1, better), (2, worse))
    ]
    assert Frontier(found).best(lambda n, m: True) == Budget(1 if surely else 2, 1)


def test_a_surpassed_cell_counts_only_where_n_or_m_is_fixed() -> None:
    """(32, 1) is worse than (1, 1) beyond the intervals."""

    def fixed(n: int, m: int) -> bool:
        return n == 32 and m == 1

    assert FRONTIER.best(fixed) is None
    assert FRONTIER.best_with(fixed) == Budget(32, 1)


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
    assert not Frontier([])
    assert Frontier([cell(1, 1, 0, 0, 0)])
