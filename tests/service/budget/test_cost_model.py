from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from service.budget.cost_model import HALF_LIFE, QUIET, TERMS, CostModel, nonnegative_least_squares
from service.engine.calibration import MIN_SHAPES, Calibration
from service.timing import BatchSize

PLANTED = (90e-6, 3e-6, 1.1e-6, 2.5e-6)
SHAPES = [(b, n, m) for b in (1, 8, 64) for n in (1, 8, 64) for m in (1, 4, 8)]


def truth(b: int, n: int, m: int, coefficients: tuple[float, ...] = PLANTED) -> float:
    call, observation, actor, critic = coefficients
    return call + b * observation + b * n * m * actor + b * n * critic


def batch(b: int, n: int, m: int) -> BatchSize:
    return BatchSize(b, b * n * m, b * n)


def fitted(coefficients: tuple[float, ...] = PLANTED, noise: float = 0.0) -> CostModel:
    rng = np.random.default_rng(0)
    model = CostModel()
    model.fit((batch(*s), truth(*s, coefficients) * float(np.exp(noise * rng.normal()))) for s in SHAPES)
    return model


def found(model: CostModel) -> list[float]:
    return [model.coefficient(term) for term in TERMS]


def test_planted_coefficients_are_found() -> None:
    np.testing.assert_allclose(found(fitted()), PLANTED, rtol=1e-6)
    assert fitted().relative_error == pytest.approx(0, abs=1e-6)
    noisy = fitted(noise=0.05)
    assert all(noisy.seconds(batch(*s)) == pytest.approx(truth(*s), rel=0.1) for s in SHAPES)
    assert 0.01 < noisy.relative_error < 0.1


def test_a_term_that_costs_nothing_is_zero_and_none_is_negative() -> None:
    np.testing.assert_allclose(found(fitted((1e-4, 0.0, 2e-6, 0.0))), (1e-4, 0.0, 2e-6, 0.0), atol=1e-10)
    falling = CostModel()
    falling.fit([(BatchSize(1, 1, 1), 2e-3), (BatchSize(1, 8, 8), 1e-3), (BatchSize(8, 64, 64), 5e-4)])
    assert min(found(falling)) >= 0


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_nonnegative_least_squares_is_scipys(seed: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(9, columns)), rng.normal(size=9)
    np.testing.assert_allclose(nonnegative_least_squares(a, b), nnls(a, b)[0], atol=1e-8)


def test_a_drift_is_followed_and_shows_in_the_error() -> None:
    model = fitted()
    for _ in range(60):
        model.observe(batch(4, 8, 4), 3 * truth(4, 8, 4))
    assert model.factor == pytest.approx(3, rel=0.02)
    assert model.seconds(batch(64, 1, 1)) == pytest.approx(3 * truth(64, 1, 1), rel=0.02)
    assert model.relative_error < 0.05
    for _ in range(60):
        model.observe(batch(4, 8, 4), truth(4, 8, 4))
    assert model.factor == pytest.approx(1, rel=0.02)


def test_one_stalled_batch_hardly_matters() -> None:
    model = fitted()
    model.observe(batch(1, 1, 1), 10.0)
    assert 1 < model.factor < 1.08
    model.observe(batch(1, 1, 1), 1e-9)
    assert model.factor == pytest.approx(1, rel=0.01)


def test_error_is_what_margins_are_made_of() -> None:
    model, rng = fitted(), np.random.default_rng(1)
    for _ in range(400):
        model.observe(batch(4, 8, 4), truth(4, 8, 4) * float(rng.choice([0.8, 1.2])))
    assert model.relative_error == pytest.approx(0.2, abs=0.08)
    assert model.estimate(1, 1, 1).margin == 1 + model.relative_error


def test_estimates_add_up_to_the_batch() -> None:
    model = fitted()
    model.observe(batch(4, 8, 4), 2 * truth(4, 8, 4))
    estimate = model.estimate(3, 32, 5)
    assert estimate.rows == 96
    assert estimate.per_call + estimate.seconds() == pytest.approx(model.seconds(batch(3, 32, 5)))
    assert estimate.seconds(rows_done=48) == pytest.approx(estimate.fixed + 48 * estimate.per_row)
    assert estimate.rows_within(estimate.seconds(rows_done=48) * 1.000001) == 48
    assert estimate.rows_within(0) == 0
    assert estimate.rows_within(1e9) == 96


def test_fits_allows_for_the_margin() -> None:
    model = fitted()
    model.observe(batch(4, 8, 4), 2 * truth(4, 8, 4))
    for b, n, m in SHAPES:
        estimate = model.estimate(b, n, m)
        seconds = (estimate.per_call + estimate.seconds()) * estimate.margin
        assert model.fits(b, seconds * 1.000001)(n, m)
        assert not model.fits(b, seconds * 0.999999)(n, m)


def test_nothing_is_learnt_before_the_fit() -> None:
    model = CostModel()
    model.observe(batch(1, 1, 1), 1.0)
    assert model.seconds(batch(1, 1, 1)) == 0
    assert model.estimate(1, 4, 1).rows_within(1e-3) == 4


@pytest.mark.parametrize("speed", [1.0, 40.0, 4000.0])
def test_calibration_recovers_a_machine_and_ends_in_time(speed: float) -> None:
    """A machine of planted coefficients, on a clock that only its own work moves."""
    now = 0.0
    shapes, steps = [], []
    planted = tuple(speed * value for value in PLANTED)

    def run(b: int, n: int, m: int) -> None:
        nonlocal now
        shapes.append((b, n, m))
        now += truth(b, n, m, planted)

    calibration = Calibration(run, max_steps=8, max_rows=1024, max_seconds=0.005, clock=lambda: now)
    for step in calibration.steps():
        before = now
        step()
        steps.append(now - before)
        now += 10.0  # other work goes between; it does not count
    model = CostModel()
    model.fit(calibration.measured)
    np.testing.assert_allclose(found(model), planted, rtol=1e-6)
    assert all(b * n <= 1024 for b, n, _ in shapes)
    spent = sum(steps)
    assert spent < 0.5 or len(calibration.measured) == MIN_SHAPES
    assert max(steps) <= 0.005 or len(calibration.measured) == MIN_SHAPES


def test_calibration_knows_small_machines_and_policies() -> None:
    calibration = Calibration(lambda b, n, m: None, max_steps=1, max_rows=1, max_seconds=1.0)
    for step in calibration.steps():
        step()
    assert [size for size, _ in calibration.measured] == [BatchSize(1, 1, 1)]
    model = CostModel()
    model.fit(calibration.measured)
    assert model.seconds(BatchSize(1, 1, 1)) > 0


def test_slowness_is_forgotten_while_there_are_no_batches() -> None:
    now = 0.0
    model = CostModel(lambda: now)
    model.fit([(BatchSize(b, b * n, b), 1e-3 * b * n) for b, n in [(1, 1), (2, 8), (1, 8), (4, 64), (1, 64)]])
    batch = BatchSize(1, 10, 1)
    for _ in range(60):
        model.observe(batch, 0.08)
    assert model.seconds(batch) == pytest.approx(0.08, rel=0.05)
    assert not model.fits(1, 0.02)(10, 1)
    now = QUIET
    assert model.factor == pytest.approx(8, rel=0.05)
    now = QUIET + HALF_LIFE
    assert model.factor == pytest.approx(8**0.5, rel=0.05)
    assert model.estimate(1, 10, 1).seconds() == pytest.approx(0.01 * 8**0.5, rel=0.05)
    now = 100.0
    assert model.seconds(batch) == pytest.approx(0.01, rel=0.01)
    assert model.fits(1, 0.0102)(10, 1)
    model.observe(batch, 0.01)
    assert model.factor == pytest.approx(1, rel=0.01)
    assert model.relative_error < 0.01
