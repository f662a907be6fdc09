"""The bound that a token bucket keeps, for any sequence of askers."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access.caller import Caller
from service.access.keys import Limits
from service.access.token_bucket import TokenBucket
from service.errors import BudgetTooLarge, RateLimited
from tests.clock import Clock

RATES = st.floats(0.01, 1e4)
GAPS = st.one_of(st.just(0.0), st.floats(0, 5), st.floats(0, 1e-3))


@given(rate=RATES, burst=st.floats(0.1, 1e4), asked=st.lists(st.tuples(GAPS, st.floats(0, 100)), max_size=40))
def test_no_window_gives_more_than_its_rate_and_a_burst(
    rate: float, burst: float, asked: list[tuple[float, float]]
) -> None:
    clock = Clock()
    bucket = TokenBucket(rate, burst, clock)
    taken: list[tuple[float, float]] = []
    for gap, amount in asked:
        clock.now += gap
        if not bucket.wait(amount):
            bucket.take(amount)
            taken.append((clock.now, amount))
    for first, last in itertools.combinations_with_replacement(range(len(taken)), 2):
        window = taken[last][0] - taken[first][0]
        assert sum(amount for _, amount in taken[first : last + 1]) <= rate * window + burst + 1e-6


def refused_for(caller: Caller) -> int | None:
    """Milliseconds after which a refused request may come again; None: it is let in."""
    try:
        caller.spend_request()
    except RateLimited as error:
        return error.retry_after_ms
    return None


@given(rate=RATES, gaps=st.lists(GAPS, max_size=40))
def test_whoever_comes_back_when_told_is_served(rate: float, gaps: list[float]) -> None:
    """And nobody is told to wait for longer than one request needs."""
    clock = Clock()
    caller = Caller("robot", Limits(requests_per_second=rate), clock)
    for gap in gaps:
        clock.now += gap
        if (wait_ms := refused_for(caller)) is not None:
            assert wait_ms <= 1000 / rate + 2
            clock.now += wait_ms / 1000
            assert refused_for(caller) is None


@pytest.mark.parametrize(("rate", "at_once"), [(5.0, 5), (2.5, 2), (1.0, 1), (0.1, 1)])
def test_a_rest_is_worth_a_second_and_at_least_one_request(clock: Clock, rate: float, at_once: int) -> None:
    caller = Caller("robot", Limits(requests_per_second=rate), clock)
    for _ in range(2):
        for _ in range(at_once):
            caller.spend_request()
        with pytest.raises(RateLimited, match=r"'robot' may spend .* requests a second") as caught:
            caller.spend_request()
        assert caught.value.reason == "requests_per_second"
        clock.now += 3600


def test_rows_are_spent_when_they_are_queued_only(clock: Clock) -> None:
    caller = Caller("robot", Limits(rows_per_second=100), clock)
    for _ in range(9):
        caller.check_rows(100)  # the scheduler refused them
    caller.spend_rows(100)
    with pytest.raises(RateLimited) as caught:
        caller.check_rows(25)
    assert (caught.value.reason, caught.value.retry_after_ms) == ("rows_per_second", 251)
    clock.now += 0.26
    caller.check_rows(25)


def test_more_rows_than_a_key_ever_has_is_no_matter_of_waiting(clock: Clock) -> None:
    caller = Caller("robot", Limits(rows_per_second=100), clock)
    with pytest.raises(BudgetTooLarge, match=r"at most 100 network rows .* has 101") as caught:
        caller.check_rows(101)
    assert caught.value.field == "num_candidates"


def test_without_limits_nothing_is_counted(clock: Clock) -> None:
    caller = Caller("robot", clock=clock)
    for _ in range(1000):
        caller.spend_request()
        caller.check_rows(10**9)
        caller.spend_rows(10**9)
