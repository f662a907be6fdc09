"""`ActionBounds`: the linear map between actions in environment units and [-1, 1], which the networks see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ROUNDING = 1e-5  # float32 actions may exceed their bounds by this fraction of the half width


@dataclass(frozen=True)
class ActionBounds:
    """The actions in environment units that map to -1 (`low`) and 1 (`high`), one number per action dimension.

    Raises:
        ValueError: a bound is not finite, or a lower bound is not below its upper bound.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        low, high = np.array(self.low), np.array(self.high)
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
            raise ValueError(f"action bounds must be finite and ascending, found low {self.low}, high {self.high}")

    @classmethod
    def of(cls, low: Sequence[float], high: Sequence[float], action_dim: int) -> ActionBounds:
        """Bounds from one number for all dimensions, or one per dimension.

        Raises:
            ValueError: any other count of numbers; or see the class.
        """
        for name, numbers in (("action_low", low), ("action_high", high)):
            if len(numbers) not in (1, action_dim):
                raise ValueError(
                    f"{name} must be one number or {action_dim}, one per action dimension: found {numbers}"
                )
        return cls(*(tuple(map(float, numbers)) * (action_dim // len(numbers)) for numbers in (low, high)))

    def __str__(self) -> str:
        return "[-1, 1]" if self == ActionBounds.unit(len(self.low)) else f"[{list(self.low)}, {list(self.high)}]"

    @classmethod
    def unit(cls, action_dim: int) -> ActionBounds:
        """[-1, 1] in every dimension."""
        return cls((-1.0,) * action_dim, (1.0,) * action_dim)

    def to_unit(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Actions mapped to [-1, 1] and clipped, float32, and which were in bounds, bool; all are (T, action_dim)."""
        low, high = np.array(self.low), np.array(self.high)
        unit = (actions - (high + low) / 2) / ((high - low) / 2)  # with bounds -1 and 1 this changes no bit
        return np.clip(unit, -1, 1).astype(np.float32), np.abs(unit) <= 1 + ROUNDING
