"""The observations of all benchmark requests."""

from __future__ import annotations

import numpy as np


def observation(obs_dim: int) -> list[float]:
    """(obs_dim,)."""
    return observations(obs_dim, 1)[0]


def observations(obs_dim: int, rows: int) -> list[list[float]]:
    """Several rows, as one request of a gateway has them."""
    found: list[list[float]] = np.random.default_rng(0).standard_normal((rows, obs_dim)).round(4).tolist()
    return found
