"""The map to [-1, 1] is the inverse of the policy's map to environment units."""

from __future__ import annotations

import numpy as np
import pytest

from tests.policies import random_policy
from training.data.action_bounds import ActionBounds


def test_to_unit_inverts_the_policys_map() -> None:
    bounds = ActionBounds.of((-2.0,), (4.0, 0.5, 1000.0), 3)
    actions = np.random.default_rng(0).uniform(bounds.low, bounds.high, (100, 3))
    unit, inside = bounds.to_unit(actions)
    assert inside.all()
    spec = random_policy(action_low=bounds.low, action_high=bounds.high).spec
    np.testing.assert_allclose(spec.action_to_environment(unit), actions, rtol=1e-5, atol=1e-4)


def test_unit_bounds_change_no_bit_and_corners_are_in_bounds() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (100, 2)).astype(np.float32)
    np.testing.assert_array_equal(ActionBounds.unit(2).to_unit(actions)[0], actions)
    tenths = ActionBounds.of((-0.1,), (0.3,), 2)
    unit, inside = tenths.to_unit(np.array([[-0.1, 0.3], [0.3, 0.30001]], np.float32))
    assert inside.tolist() == [[True, True], [True, False]]
    np.testing.assert_array_equal(unit, [[-1, 1], [1, 1]])


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ((-1.0, -1.0), (1.0,), "action_low must be one number or 3"),
        ((-1.0,), (), "action_high must be one number or 3"),
        ((-1.0,), (1.0, -1.0, 1.0), "ascending"),
        ((-1.0,), (float("inf"),), "finite"),
    ],
)
def test_impossible_bounds_are_refused(low: tuple[float, ...], high: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActionBounds.of(low, high, 3)
