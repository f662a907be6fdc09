"""The observations of all benchmark requests."""

from __future__ import annotations

import numpy as np


def observation(obs_dim: int) -> list[float]:
    found: list[float] = np.random.default_rng(0).standard_normal(obs_dim).round(4).tolist()
    return found


def observations(obs_dim: int, rows: int) -> list[list[float]]:
    """Several rows, as one request of a gateway has them."""
    found: list[list[float]] = np.random.default_rng(0).standard_normal((rows, obs_dim)).round(4).tolist()
    return found
