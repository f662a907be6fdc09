"""The budget rule against its definition, on planted costs: call 1 ms, a row-step 1 ms, a scored row 2 ms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policy import Budget, PolicySpec
from policy.spec import Measurement
from service.budget import Admission, Limits
from service.budget.cost_model import CostModel
from service.errors import BudgetTooLarge, DeadlineExceeded, InvalidRequest, Overloaded
from service.sample import SampleRequest
from service.timing import BatchSize, TimeLeft

LIMITS = Limits(max_candidates=64, max_steps=100, max_batch=4, max_returned=100, max_seconds=10.0)
GRID = [(n, m) for n in (1, 2, 4, 8, 32) for m in (1, 2, 4, 8)]


def cost() -> CostModel:
    model = CostModel()
    grid = [(b, n, m) for b in (1, 3) for n in (1, 5) for m in (1, 4)]
    model.fit((BatchSize(b, b * n * m, b * n), seconds(n, m, b)) for b, n, m in grid)
    model.relative_error = 0.0
    return model


def seconds(n: int, m: int, b: int = 1) -> float:
    return 1e-3 * (1 + b * n * m + 2 * b * n)


def measured(success: dict[tuple[int, int], float], half: float = 0.05) -> tuple[Measurement, ...]:
    return tuple(
        Measurement(n, m, s, max(0.0, s - half), min(1.0, s + half), 50) for (n, m), s in sorted(success.items())
    )


# More steps help up to 4, more candidates always: (32, 4) is best, and at each cost another cell.
SUCCESS = {(n, m): 0.02 * n**0.5 + {1: 0.1, 2: 0.3, 4: 0.6, 8: 0.2}[m] for n, m in GRID}


def admission(frontier: tuple[Measurement, ...] = (), limits: Limits = LIMITS) -> Admission:
    spec = PolicySpec("p", 3, 1, (-1.0,), (1.0,), default_budget=Budget(8, 4), frontier=frontier)
    return Admission(spec, limits, cost())


def time(now: float, idle: float | None = None, best: float | None = None) -> TimeLeft:
    idle = now if idle is None else idle
    return TimeLeft(now, idle, idle if best is None else best)


def ask(rule: Admission, left: TimeLeft | None, b: int = 1, **fields: Any) -> tuple[Any, ...]:
    grant = rule.grant(b, time=left, **fields)
    return grant.num_candidates, grant.num_steps, grant.degraded


def test_costs_are_as_planted() -> None:
    estimate = cost().estimate(2, 8, 4)
    assert estimate.per_call + estimate.seconds() == pytest.approx(seconds(8, 4, 2))


@pytest.mark.parametrize("frontier", [(), measured(SUCCESS)])
def test_without_a_deadline_exactly_what_is_given(frontier: Any) -> None:
    rule = admission(frontier)
    assert ask(rule, None) == (8, 4, False)
    assert ask(rule, None, num_candidates=3) == (3, 4, False)
    assert ask(rule, None, num_steps=7) == (8, 7, False)
    assert ask(rule, None, num_candidates=5, num_steps=3, on_late="reject") == (5, 3, False)


@pytest.mark.parametrize("frontier", [(), measured(SUCCESS)])
def test_what_the_server_chooses_is_within_the_rows_of_the_key(frontier: Any) -> None:
    rule = admission(frontier)
    assert ask(rule, None, max_rows=5) == (5, 4, False)
    assert ask(rule, None, b=2, max_rows=5) == (2, 4, False)
    assert ask(rule, None, b=4, max_rows=1.5) == (1, 4, False)  # what is too much still is for the caller to refuse
    assert ask(rule, None, max_rows=8) == (8, 4, False)
    for on_late in ("degrade", "reject"):
        for b in (1, 2):
            n, m, degraded = ask(rule, time(1.0), b=b, max_rows=9.5, on_late=on_late)
            assert (n * b <= 9.5, n >= 2, m, degraded) == (True, True, 4, False)
    assert ask(rule, time(1.0), num_candidates=20, max_rows=5)[0] == (8 if frontier else 20)  # it was given


def test_with_time_for_both_they_are_granted_even_where_less_was_measured_better() -> None:
    assert ask(admission(measured(SUCCESS)), time(1.0), num_candidates=32, num_steps=8) == (32, 8, False)


def test_degrade_takes_the_best_cell_below_and_says_why() -> None:
    rule = admission(measured(SUCCESS))
    left = seconds(4, 4) + 1e-9
    assert ask(rule, time(left), num_candidates=32, num_steps=8) == (4, 4, "deadline")
    assert ask(rule, time(left, idle=1.0), num_candidates=32, num_steps=8) == (4, 4, "load")
    assert ask(rule, time(left), num_candidates=2) == (2, 4, False)
    assert ask(rule, time(left)) == (4, 4, False)  # nothing was asked for
    assert ask(rule, time(1.0), num_candidates=32, num_steps=None) == (32, 4, False)


def test_a_ceiling_that_measured_worse_is_not_held() -> None:
    rule = admission(measured({(2, 4): 0.9, (32, 4): 0.3, (32, 1): 0.1}))
    assert ask(rule, time(1.0), num_candidates=32) == (2, 4, "frontier")


def test_one_and_one_is_always_the_floor() -> None:
    for frontier in ((), measured({(8, 4): 0.5})):
        rule = admission(frontier)
        assert ask(rule, time(-1.0, 1.0), num_candidates=4) == (1, 1, "load")
        assert ask(rule, time(0.0), num_candidates=8, num_steps=4) == (1, 1, "deadline")
        assert ask(rule, time(0.0)) == (1, 1, False)
    assert ask(admission(measured({(8, 4): 0.5})), time(1.0), num_candidates=3) == (1, 1, "frontier")


def test_below_the_least_quality_nothing_is_chosen() -> None:
    rule = admission(measured(SUCCESS))
    best = SUCCESS[32, 4]
    share = {cell: success / best for cell, success in SUCCESS.items()}
    exactly = {"min_quality": share[4, 4]}
    left = seconds(4, 4) + 1e-9
    assert ask(rule, time(left), num_candidates=32, num_steps=8, **exactly) == (4, 4, "deadline")
    assert ask(rule, time(left, idle=1.0), num_candidates=32, num_steps=8, **exactly) == (4, 4, "load")
    assert ask(rule, time(left), **exactly) == (4, 4, False)
    for on_late in ("degrade", "reject"):
        for fields in ({}, {"num_candidates": 4}, {"num_steps": 4}):
            lower = {**fields, "on_late": on_late, "min_quality": share[4, 4]}
            assert ask(rule, time(left), **lower)[:2] == (4, 4)
            with pytest.raises(DeadlineExceeded) as ever:
                ask(rule, time(left - 1e-4), **lower)
            with pytest.raises(Overloaded) as behind:
                ask(rule, time(left - 1e-4, idle=1.0), **lower)
            with pytest.raises(Overloaded) as slow:
                ask(rule, time(left - 1e-4, best=1.0), **lower)
            assert [one.value.reason for one in (ever, behind, slow)] == ["too_short", "backlog", "slow"]
            assert behind.value.retry_after_ms == round((1.0 - left + 1e-4) * 1e3)
    # What is given is granted where there is time for it, whatever it measured.
    given = {"num_candidates": 1, "num_steps": 1, "min_quality": 1.0}
    assert ask(rule, time(seconds(1, 1) + 1e-9), **given) == (1, 1, False)
    with pytest.raises(DeadlineExceeded):
        ask(rule, time(seconds(1, 1) - 1e-4), **given)
    # Nothing and no deadline: no limit.
    assert ask(rule, time(0.0), min_quality=0.0) == (1, 1, False)
    assert ask(rule, None, num_candidates=1, min_quality=1.0) == (1, 4, False)


@pytest.mark.parametrize("on_late", ["degrade", "reject"])
def test_a_quality_that_no_time_is_enough_for_is_refused_by_name(on_late: str) -> None:
    measurements = {(2, 4): 0.9, (8, 4): 0.6, (8, 1): 0.3}
    rule = admission(measured(measurements))
    for fields, most in [
        ({"num_candidates": 8}, None if on_late == "degrade" else 0.6667),
        ({"num_steps": 1}, 0.3334),
        ({"num_candidates": 1}, 0.0),
    ]:
        lower = {**fields, "on_late": on_late}
        if most is None:
            assert ask(rule, time(1.0), **lower, min_quality=1.0)[:2] == (2, 4)
            continue
        with pytest.raises(InvalidRequest, match="min_quality: expected at most") as caught:
            ask(rule, time(1.0), **lower, min_quality=most + 0.0001)
        assert caught.value.field == "min_quality"
        if most:
            said = float(str(caught.value).split("at most ")[1].split(",")[0])
            assert ask(rule, time(1.0), **lower, min_quality=said) == ask(rule, time(1.0), **lower)
    with pytest.raises(InvalidRequest, match="min_quality: expected a policy whose"):
        ask(admission(), time(1.0), min_quality=0.5, on_late=on_late)
    # A key that pays for two rows only can't have the best.
    few = admission(measured({(8, 4): 0.9, (1, 4): 0.45}))
    with pytest.raises(InvalidRequest, match=r"at most 0\.5,"):
        ask(few, time(1.0), min_quality=0.6, max_rows=2, on_late=on_late)
    assert ask(few, time(1.0), min_quality=0.5, max_rows=2, on_late=on_late) == (1, 4, False)


def test_a_policy_that_never_succeeded_has_no_lower_limit() -> None:
    rule = admission(measured({(8, 4): 0.0, (1, 1): 0.0}))
    assert ask(rule, time(1.0), min_quality=1.0) == (8, 4, False)


def test_unmeasured_policy_takes_candidates_first_up_to_its_default() -> None:
    rule = admission()
    assert ask(rule, time(1.0)) == (8, 4, False)
    assert ask(rule, time(seconds(8, 2) + 1e-9)) == (8, 2, False)
    assert ask(rule, time(seconds(8, 1) - 1e-4)) == (4, 2, False)
    assert ask(rule, time(1.0), num_candidates=50) == (50, 4, False)
    assert ask(rule, time(seconds(16, 1) + 1e-9), num_candidates=50, num_steps=8) == (16, 1, "deadline")


def test_reject_is_exact_or_refused_at_once() -> None:
    rule = admission(measured(SUCCESS))
    exact = {"num_candidates": 8, "num_steps": 4, "on_late": "reject"}
    assert ask(rule, time(seconds(8, 4) + 1e-9), **exact) == (8, 4, False)
    with pytest.raises(DeadlineExceeded):
        ask(rule, time(seconds(8, 4) - 1e-4), **exact)
    with pytest.raises(Overloaded) as caught:
        ask(rule, time(seconds(8, 4) - 1e-4, idle=1.0), **exact)
    assert caught.value.retry_after_ms == round((1.0 - seconds(8, 4) + 1e-4) * 1000)
    # What is open comes from the frontier, what is given stays.
    one = {"num_candidates": 8, "num_steps": None, "on_late": "reject"}
    assert ask(rule, time(1.0), **one) == (8, 4, False)
    assert ask(rule, time(seconds(8, 2) + 1e-9), **one) == (8, 2, False)
    assert ask(rule, time(1.0), num_steps=8, on_late="reject") == (32, 8, False)
    with pytest.raises(DeadlineExceeded):
        ask(rule, time(seconds(8, 1) - 1e-4), **one)
    # A number that nobody measured: most steps that there is time for, up to the default's.
    assert ask(rule, time(1.0), num_candidates=9, on_late="reject") == (9, 4, False)
    assert ask(rule, time(seconds(9, 2) + 1e-9), num_candidates=9, on_late="reject") == (9, 2, False)


def test_what_a_refusal_says_is_true() -> None:
    """Too short ever, too short while the server is slow, and too short behind the queue are told apart."""
    rule = admission(measured(SUCCESS))
    exact = {"num_candidates": 8, "num_steps": 4, "on_late": "reject"}
    enough = seconds(8, 4) + 1e-9
    with pytest.raises(DeadlineExceeded, match="even on an idle server") as ever:
        ask(rule, time(enough / 2), **exact)
    with pytest.raises(Overloaded) as behind:
        ask(rule, time(enough / 2, idle=enough), **exact)
    with pytest.raises(Overloaded) as lagging:  # its event loop is late, or its replies are
        ask(rule, time(enough / 2, idle=enough / 2, best=enough), **exact)
    rule._cost.relative_error = 0.5  # its predictions are off
    with pytest.raises(Overloaded) as unsure:
        ask(rule, time(enough), **exact)
    assert [caught.value.reason for caught in (ever, behind, lagging, unsure)] == [
        "too_short",
        "backlog",
        "slow",
        "slow",
    ]
    assert ask(rule, time(enough), num_candidates=8, num_steps=4)[2] == "load"
    assert ask(rule, time(enough / 2), num_candidates=8, num_steps=4)[2] == "deadline"


def test_margin_makes_the_choice_careful() -> None:
    rule = admission(measured(SUCCESS))
    rule._cost.relative_error = 0.5
    assert ask(rule, time(1.49 * seconds(4, 4)), num_candidates=32)[:2] != (4, 4)
    assert ask(rule, time(1.51 * seconds(4, 4)), num_candidates=32)[:2] == (4, 4)


def test_limits_are_refused_by_name() -> None:
    rule = admission(measured(SUCCESS))
    for fields, name in [
        ({"num_candidates": 65}, "num_candidates"),
        ({"num_steps": 9}, "num_steps"),  # denoise_timesteps of the policy
        ({"num_candidates": 51, "b": 2, "return_candidates": True}, "return_candidates"),
    ]:
        with pytest.raises(BudgetTooLarge) as caught:
            ask(rule, None, **fields)
        assert caught.value.field == name
    with pytest.raises(InvalidRequest) as invalid:
        ask(rule, None, b=5)
    assert invalid.value.field == "observation"
    short = admission(limits=Limits(64, 100, 4, 100, max_seconds=0.1))
    with pytest.raises(BudgetTooLarge, match="max_queue_seconds"):
        ask(short, None, num_candidates=64, num_steps=8)
    assert ask(admission(limits=Limits(4, 2, 4, 100, 1.0)), time(1.0)) == (4, 2, False)
    # What is returned bounds what the frontier may choose.
    assert ask(rule, time(1.0), b=4, return_candidates=True)[0] <= 25


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(GRID), st.integers(0, 20).map(lambda s: s / 20), max_size=12),
    st.none() | st.integers(1, 40),
    st.none() | st.integers(1, 8),
    st.floats(0, 0.5),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.0, 0.3, 0.5, 0.8, 1.0]),
)
def test_degrade_is_what_brute_force_finds(
    success: dict[tuple[int, int], float], n: int | None, m: int | None, left: float, b: int, quality: float
) -> None:
    """An independent reading of the rule."""
    if not success:
        return
    cells = measured(success, half=0.075)
    got: tuple[Any, ...] | str
    try:
        got = ask(admission(cells), time(left), num_candidates=n, num_steps=m, b=b, min_quality=quality)
    except (DeadlineExceeded, Overloaded):
        got = "late"
    except InvalidRequest as error:
        got = f"never: {error.field}"
    if n is not None and m is not None and seconds(n, m, b) <= left - 1e-9:
        assert got == (n, m, False)
        return
    least = quality * max(c.success for c in cells)
    good = [c for c in cells if c.success >= least and c.num_candidates <= (n or 64) and c.num_steps <= (m or 8)]
    if quality and not good and (n is None or m is None):
        assert got == "never: min_quality"
        return
    answers: set[tuple[int, int] | str] = set()
    for within in (left - 1e-9, left + 1e-9):  # a cell that takes all that is left, to the bit, may be in or out
        kept = [
            c
            for c in cells
            if (c in good or not quality)
            and c.num_candidates <= (n or 64)
            and c.num_steps <= (m or 8)
            and seconds(c.num_candidates, c.num_steps, b) <= within
        ]
        if not kept:
            answers.add("late" if quality else (1, 1))
        if n is not None and m is not None and seconds(n, m, b) <= within:
            answers.add((n, m))
        equals = {(c.num_candidates, c.num_steps) for c in kept if c.success == max(k.success for k in kept)}
        if equals:
            answers.add((8, 4) if (8, 4) in equals else min(equals, key=lambda cell: (cell[0] * cell[1], cell[1])))
    if isinstance(got, str):
        assert got in answers
        return
    assert got[:2] in answers
    less = (n is not None and got[0] < n) or (m is not None and got[1] < m)
    assert bool(got[2]) == less


def work(n: int, m: int, b: int = 1, **changes: Any) -> SampleRequest:
    return SampleRequest(np.zeros((b, 3), np.float32), n, m, np.zeros(b, np.uint64), **changes)


def test_reduce_before_anything_is_computed_goes_by_the_frontier() -> None:
    rule = admission(measured(SUCCESS))
    reduced = rule.reduced(work(32, 8), seconds(4, 4) + 1e-9, 0)
    assert reduced is not None
    assert (reduced.num_candidates, reduced.num_steps, reduced.degraded) == (4, 4, "load")
    floor = rule.reduced(work(32, 8, degraded="deadline"), -1.0, 0)
    assert floor is not None
    assert (floor.num_candidates, floor.num_steps, floor.degraded) == (1, 1, "deadline")
    least = work(1, 1)
    assert rule.reduced(least, -1.0, 0) is least


def test_nothing_is_reduced_below_the_least_quality() -> None:
    rule = admission(measured(SUCCESS))
    quality = SUCCESS[4, 4] / SUCCESS[32, 4]
    reduced = rule.reduced(work(32, 8), seconds(4, 4) + 1e-9, 0, quality)
    assert reduced is not None
    assert (reduced.num_candidates, reduced.num_steps, reduced.degraded) == (4, 4, "load")
    assert rule.reduced(work(32, 8), seconds(4, 4) - 1e-4, 0, quality) is None
    assert rule.reduced(work(4, 4), -1.0, 0, quality) is None
    # Half way: the cells of its M that are above what is done, and that there is time for.
    before = work(32, 4, b=3)
    at_16 = 1e-3 * (1 + 6 * (3 * 16 - 6))  # seconds for rows 6 to 48 at M = 4; (8, 4) is the largest cell below 16
    half_way = rule.reduced(before, at_16, 6, quality)
    assert half_way is not None
    assert (half_way.num_candidates, half_way.num_steps, half_way.degraded) == (8, 4, "load")
    assert rule.reduced(before, at_16, 24, quality) is None  # eight are done already
    assert rule.reduced(before, 1e-3, 6, quality) is None
    assert rule.reduced(before, 10.0, 6, quality) is before


@pytest.mark.parametrize("done", [1, 6, 7, 30])
def test_reduce_half_way_keeps_steps_and_what_is_computed(done: int) -> None:
    rule = admission(measured(SUCCESS))
    before = work(32, 4, b=3)
    for left in (-1.0, 0.0, 0.05, 0.2):
        reduced = rule.reduced(before, left, done)
        assert reduced is not None
        assert reduced.num_steps == 4
        assert done < reduced.rows <= before.rows
        if reduced is not before and reduced.rows - done > 3:
            assert 1e-3 * (1 + 6 * (reduced.rows - done)) <= left + 1e-9
    assert rule.reduced(before, 10.0, done) is before
