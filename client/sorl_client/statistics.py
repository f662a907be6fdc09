"""Statistics of a drive: success-rate intervals, percentiles, and the jerk of actions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def wilson_interval(successes: int, episodes: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson score interval (low, high) of a success rate, in [0, 1]; the default `z` gives 95 %.

    Unlike the normal approximation it has a width above 0 at 0 of n and n of n, which are common in robot evaluations.
    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.

    Raises ValueError unless 0 <= successes <= episodes, episodes >= 1 and z is finite and not negative.
    """
    if episodes < 1 or not 0 <= successes <= episodes:
        raise ValueError(f"need 0 <= successes <= episodes and episodes >= 1, got {successes} of {episodes}")
    if not (math.isfinite(z) and z >= 0.0):
        raise ValueError(f"z must be finite and not negative, got {z}")
    rate = successes / episodes
    scale = 1.0 + z * z / episodes
    centre = (rate + z * z / (2 * episodes)) / scale
    half = z / scale * math.sqrt(rate * (1.0 - rate) / episodes + z * z / (4.0 * episodes * episodes))
    # Rounding may put an end a few ulps beyond the rate itself (0 of n, n of n) or outside [0, 1].
    return min(rate, max(0.0, centre - half)), max(rate, min(1.0, centre + half))


def percentiles(values: Sequence[float], levels: Sequence[float]) -> tuple[float, ...]:
    """The percentiles of `values` at `levels` in [0, 100], by nearest rank.

    Each is the smallest value that at least `level` percent of the values do not exceed, so a reported p99 latency was
    really measured. Raises ValueError if there are no values or a level is outside [0, 100].
    """
    if not values:
        raise ValueError("percentiles of no values")
    return tuple(float(value) for value in np.percentile(np.asarray(values), levels, method="inverted_cdf"))


def jerk(sequences: Sequence[npt.NDArray[np.floating]], hz: float) -> float:
    """Mean norm of the second finite difference of actions, times hz^2: action units per second squared.

    `sequences` has one (steps, action_dim) array per episode. No difference spans two episodes, and all differences
    count alike. OGBench's manipulation and point-maze actions are displacements per tick, that is velocities, so their
    second derivative is the jerk of the commanded motion. The result is 0 if no episode has three actions.
    """
    norms = [np.linalg.norm(np.diff(np.asarray(actions, np.float64), n=2, axis=0), axis=1) for actions in sequences]
    pooled = np.concatenate([np.zeros(0), *norms])
    return float(pooled.mean()) * hz**2 if pooled.size else 0.0
