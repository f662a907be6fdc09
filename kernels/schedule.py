"""The Euler steps of a budget of M: M aligned dyadic steps, largest first (docs/algorithm.md).

With j = floor(log2 M): 2^(j+1) - M steps of size 2^-j, then 2M - 2^(j+1) steps of size 2^-(j+1). The shortcut model was
trained on each of these (t, size). For M in {1, 2, 4, 8} the steps are the paper's uniform grid. All times are dyadic,
so they are exact in float32.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Step(NamedTuple):
    """One Euler step from time `t`, of length 2^-`log2_steps`."""

    t: float
    log2_steps: int


def dyadic_steps(num_steps: int) -> list[Step]:
    """The steps of a budget of M = `num_steps` >= 1, in order of time."""
    j = num_steps.bit_length() - 1
    coarse = 2 ** (j + 1) - num_steps
    sizes = [j] * coarse + [j + 1] * (num_steps - coarse)
    steps, t = [], 0.0
    for log2_steps in sizes:
        steps.append(Step(t, log2_steps))
        t += 2.0**-log2_steps
    return steps


def critic_steps(num_steps: int, max_backprop_steps: int) -> int:
    """k, the critic's step input: the largest power of two <= min(M, M_BTT), since it was trained on those only."""
    return 1 << (min(num_steps, max_backprop_steps).bit_length() - 1)


class StepTable(NamedTuple):
    """The steps of all M = 1..M_disc as lookup tables [M, step]. Row 0 and steps from M on are unused."""

    t: Tensor
    log2_steps: Tensor
    critic_steps: Tensor  # [M]


@lru_cache(maxsize=16)
def step_table(denoise_timesteps: int, max_backprop_steps: int, device: torch.device, dtype: torch.dtype) -> StepTable:
    """The table for M = 1..`denoise_timesteps`, on `device`; cached."""
    t = torch.zeros(denoise_timesteps + 1, denoise_timesteps, dtype=dtype)
    log2_steps = torch.zeros_like(t)
    critic = torch.ones(denoise_timesteps + 1, dtype=dtype)
    for num_steps in range(1, denoise_timesteps + 1):
        for index, step in enumerate(dyadic_steps(num_steps)):
            t[num_steps, index], log2_steps[num_steps, index] = step
        critic[num_steps] = critic_steps(num_steps, max_backprop_steps)
    return StepTable(t.to(device), log2_steps.to(device), critic.to(device))
