"""Checks of arrays before training: each raises DatasetError and names the first faulty row."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from training.data.action_bounds import ActionBounds
from training.data.formats.raw_dataset import Columns, DatasetError

OTHER_UNITS_HINT = "; if the actions have other units, pass --action-low and --action-high"
log = logging.getLogger(__name__)
NARROW = 0.2  # of the declared range: actions that use less are perhaps in other units
LARGE = 1e6  # beyond, float32 resolves a tenth at most, and networks of raw observations do not learn
_FLOAT32_MAX = np.finfo(np.float32).max


def require_keys(where: str, arrays: Collection[str], required: Collection[str]) -> None:
    """Every name in `required` is among `arrays`."""
    for key in required:
        if key not in arrays:
            raise DatasetError(f"{where}: array {key!r} is missing")


def warn_of_unused(where: str, found: Iterable[str], known: Collection[str]) -> None:
    """Log one line that names what a file has besides `known`: perhaps a misspelt array."""
    if unused := sorted(set(found) - set(known)):
        log.warning("%s: ignored, as nothing uses it: %s", where, ", ".join(unused))


def check_arrays(where: str, arrays: Mapping[str, np.ndarray], flat: Collection[str]) -> None:
    """Arrays hold numbers, finite in float32, with equally many rows: (T,) for names in `flat`, (T, dim) for others."""
    for key, array in arrays.items():
        axes = 1 if key in flat else 2
        if array.dtype.kind not in "biuf":
            raise DatasetError(f"{where}: {key!r} must hold numbers, and its dtype is {array.dtype}")
        if array.ndim and not len(array):  # an empty array may have lost its other axes
            raise DatasetError(f"{where}: {key!r} has no rows, and its shape is {array.shape}")
        if array.ndim != axes:
            raise DatasetError(f"{where}: {key!r} must have {axes} axes, and its shape is {array.shape}")
        if not array.size:
            raise DatasetError(f"{where}: {key!r} has no columns, and its shape is {array.shape}")
    first = "observations" if "observations" in arrays else next(iter(arrays))
    rows = len(arrays[first])
    for key, array in arrays.items():
        if len(array) != rows:
            raise DatasetError(f"{where}: {key!r} has {len(array)} rows, and {first!r} has {rows}")
        finite = (np.abs(array) <= _FLOAT32_MAX).reshape(rows, -1).all(1)
        if not finite.all():
            raise DatasetError(f"{where}: {key!r} row {int(np.argmin(finite))} is NaN or infinite")


def check_flags(where: str, key: str, values: np.ndarray) -> np.ndarray:
    """`values`, each 0 or 1, as bool."""
    binary = (values == 0) | (values == 1)
    if not binary.all():
        row = int(np.argmin(binary))
        raise DatasetError(f"{where}: {key!r} row {row} must be 0 or 1, and is {values[row]}")
    return values.astype(bool)


def unit_actions(where: str, actions: np.ndarray, bounds: ActionBounds, hint: str = "") -> np.ndarray:
    """Actions (T, action_dim) mapped from `bounds` to [-1, 1], float32. `hint` ends the message of a row outside."""
    unit, inside = bounds.to_unit(actions)
    if not inside.all():
        row = int(np.argmin(inside.all(1)))
        raise DatasetError(f"{where}: 'actions' row {row} leaves {bounds}: {actions[row].tolist()}{hint}")
    return unit


def warn_of_ranges(where: str, columns: Columns, bounds: ActionBounds) -> None:
    """Log one line of action dimensions that use little of `bounds`, and one of large observation dimensions."""
    unit_low, unit_high = columns.actions.min(0), columns.actions.max(0)
    narrow = []
    for dim in np.flatnonzero(unit_high - unit_low < 2 * NARROW):
        low, high = bounds.low[dim], bounds.high[dim]
        first, last = (low + (float(unit) + 1) / 2 * (high - low) for unit in (unit_low[dim], unit_high[dim]))
        narrow.append(f"dimension {dim} goes from {first:.4g} to {last:.4g} of {low:.4g} to {high:.4g}")
    if narrow:
        log.warning("%s: 'actions' use less than a fifth of their declared range: %s", where, "; ".join(narrow))
    low, high = columns.observations.min(0), columns.observations.max(0)
    large = [
        f"dimension {dim} goes from {low[dim]:.4g} to {high[dim]:.4g}"
        for dim in np.flatnonzero(np.maximum(np.abs(low), np.abs(high)) > LARGE)
    ]
    if large:
        log.warning("%s: 'observations' are large, beyond %g: %s", where, LARGE, "; ".join(large))
