"""The Euler steps of each budget, and the critic's step input."""

from __future__ import annotations

import pytest

from kernels.schedule import critic_steps, dyadic_steps

EXPECTED_SIZES = {
    1: [1],
    2: [1 / 2] * 2,
    3: [1 / 2, 1 / 4, 1 / 4],
    4: [1 / 4] * 4,
    5: [1 / 4] * 3 + [1 / 8] * 2,
    6: [1 / 4] * 2 + [1 / 8] * 4,
    7: [1 / 4] + [1 / 8] * 6,
    8: [1 / 8] * 8,
}


@pytest.mark.parametrize(("num_steps", "sizes"), EXPECTED_SIZES.items())
def test_steps_are_dyadic_aligned_and_cover_the_flow(num_steps: int, sizes: list[float]) -> None:
    steps = dyadic_steps(num_steps)
    assert [2.0**-step.log2_steps for step in steps] == sizes
    t = 0.0
    for step, size in zip(steps, sizes, strict=True):
        assert step.t == t
        assert (t / size).is_integer(), "the model was trained only on steps that start at a multiple of their size"
        t += size
    assert t == 1.0


@pytest.mark.parametrize(
    ("num_steps", "limit", "k"),
    [(1, 8, 1), (2, 8, 2), (3, 8, 2), (5, 8, 4), (7, 8, 4), (8, 8, 8), (8, 4, 4), (6, 1, 1)],
)
def test_the_critic_gets_a_step_count_it_was_trained_with(num_steps: int, limit: int, k: int) -> None:
    assert critic_steps(num_steps, limit) == k
