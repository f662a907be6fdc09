"""What a drive reports: an interval for a success rate, latency percentiles, and how jerky the actions were."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def wilson_interval(successes: int, episodes: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson score interval (low, high) of a success rate, in [0, 1]; the default `z` gives 95 %.

    Unlike the normal approximation it keeps a width at 0 of n and n of n, where robot evaluations often end.
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
    # Rounding may put an end a few ulp past the rate itself (0 of n, n of n) or past [0, 1].
    return min(rate, max(0.0, centre - half)), max(rate, min(1.0, centre + half))


def percentiles(values: Sequence[float], levels: Sequence[float]) -> tuple[float, ...]:
    """The smallest value that at least `level` percent of `values` do not exceed, for each level in [0, 100].

    Each answer is one of the values (nearest rank), so that a reported p99 latency was really seen.
    Raises ValueError for no values or a level outside [0, 100].
    """
    if not values:
        raise ValueError("percentiles of no values")
    return tuple(float(value) for value in np.percentile(np.asarray(values), levels, method="inverted_cdf"))


def jerk(sequences: Sequence[npt.NDArray[np.floating]], hz: float) -> float:
    """Mean norm of the second finite difference of actions, times hz^2: action units per second squared.

    `sequences` holds one (steps, action_dim) array per episode; differences never span two episodes, and all count
    alike. OGBench's manipulation and point-maze actions command a displacement per tick, that is a velocity, whose
    second derivative is the jerk of the motion asked for. Fewer than three actions have no second difference: if no
    episode is longer, the answer is 0.
    """
    norms = [np.linalg.norm(np.diff(np.asarray(actions, np.float64), n=2, axis=0), axis=1) for actions in sequences]
    pooled = np.concatenate([np.zeros(0), *norms])
    return float(pooled.mean()) * hz**2 if pooled.size else 0.0
