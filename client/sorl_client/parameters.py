"""The numbers that callers pass: the range of each, and the one check of them all.

A number is a Python or NumPy scalar or a 0-d array; booleans are none. A check returns the plain Python number, or
raises InvalidArgument or WrongArgumentType with the parameter's name. An integer given for a real number stays one, so
that it is sent as it was given. A float that is whole, such as 8.0, counts as an integer, as the server takes it.
"""

from __future__ import annotations

import math
import numbers
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sorl_client.errors import InvalidArgument, WrongArgumentType

LARGEST_INTEGER = 2**53  # larger ones lose digits in JSON readers that use doubles
LONGEST_WAIT_S = 2_147_483  # 24.8 days: poll(2), on which sockets wait, takes 2^31 - 1 ms at most
LONGEST_DEADLINE_MS = 3_600_000  # an hour: the server takes no more
FLOAT_MAX = sys.float_info.max


@dataclass(frozen=True)
class Whole:
    """The integers from `least` to `most`."""

    least: int
    most: int = LARGEST_INTEGER

    def __str__(self) -> str:
        bits = self.most.bit_length()
        powers = {2**bits - 1: f"2^{bits} - 1", 2 ** (bits - 1): f"2^{bits - 1}"} if bits > 32 else {}
        return f"an integer from {self.least} to {powers.get(self.most, self.most)}"

    def __call__(self, name: str, value: Any) -> int:
        """`value` as an int. A float is taken up to 2^53: above, it may have been another integer."""
        value = _scalar(value)
        number = _whole(value)
        if number is None:
            raise _refusal(WrongArgumentType, name, self, value)
        if not self.least <= number <= self.most:
            raise _refusal(InvalidArgument, name, self, value)
        if number > LARGEST_INTEGER and not _is(value, numbers.Integral):
            raise _refusal(InvalidArgument, name, f"{self}, as a float at most 2^53", value)
        return number

    def or_none(self, name: str, value: Any) -> int | None:
        """`value` as an int, or None if it is None."""
        return None if value is None else self(name, value)


@dataclass(frozen=True)
class Real:
    """The finite numbers from `least` to `most`, in `unit`; with `above`, `least` itself is none of them."""

    least: float
    most: float = FLOAT_MAX
    above: bool = False
    unit: str = ""

    def __str__(self) -> str:
        return f"{self._range()} ({self.unit})" if self.unit else self._range()

    def _range(self) -> str:
        if self.least == -FLOAT_MAX:
            return f"a finite number of at most {self.most:.10g}"
        if self.above:
            return f"a finite number above {self.least:g}, at most {self.most:.10g}"
        if self.most == FLOAT_MAX:
            return f"a finite number of at least {self.least:g}"
        return f"a number from {self.least:g} to {self.most:.10g}"

    def __call__(self, name: str, value: Any) -> float:
        """`value` as an int if it is an integer, else as a float."""
        value = _scalar(value)
        if not _is(value, numbers.Real):
            raise _refusal(WrongArgumentType, name, self, value)
        try:
            number = int(value) if _is(value, numbers.Integral) else float(value)
        except OverflowError:  # a fraction beyond a float
            number = math.inf
        if not self.least <= number <= self.most or (self.above and number == self.least):  # also refuses NaN
            raise _refusal(InvalidArgument, name, self, value)
        return number

    def or_none(self, name: str, value: Any) -> float | None:
        """`value` as a plain number, or None if it is None."""
        return None if value is None else self(name, value)


BUDGET = Whole(1)  # num_candidates and num_steps
MS = "milliseconds"  # who is refused may have thought in seconds
DEADLINE_MS = Real(-FLOAT_MAX, LONGEST_DEADLINE_MS, unit=MS)  # 0 and less: it has passed, which is DeadlineExceeded
SEED = Whole(0, 2**64 - 1)
TEMPERATURE = Real(0, 2)
PRIORITY = Whole(0, 9)

TIMEOUT_S = Real(0, LONGEST_WAIT_S, above=True)
TRANSIT_MS = Real(0, LONGEST_DEADLINE_MS, unit=MS)
HZ = Real(0.001, 1e6)
AFTER_MS = Real(0, LONGEST_DEADLINE_MS, unit=MS)
LATENCY_MS = Real(0, LONGEST_DEADLINE_MS, unit=MS)
SHARE = Real(0, 1)
WAIT_S = Real(0, LONGEST_WAIT_S)
RETRY_AFTER_S = Real(0)
COUNT = Whole(0)
AT_LEAST_ONE = Whole(1)
EPISODE = Whole(0, 2**33 - 1)  # its actions' seeds stay below 2^53


def seed(name: str, value: Any) -> int | list[int] | npt.NDArray[np.integer] | None:
    """A seed, a list or tuple of one per row, or an array (B,) of them; or None. An array of integers stays one."""
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind == "f":
        value = list(value)
    if isinstance(value, np.ndarray) and value.ndim == 1:
        if value.dtype.kind not in "iu":
            raise _refusal(WrongArgumentType, name, "integers", value)
        if not value.size or value.min() < 0:
            raise _refusal(InvalidArgument, name, f"one or more, each {SEED}", value)
        return value.copy()
    if isinstance(value, list | tuple):
        if not value:
            raise _refusal(InvalidArgument, name, "one or more", value)
        return [SEED(name, row) for row in value]
    return SEED.or_none(name, value)


def array(
    name: str, value: Any, expected: str = "an array of numbers", field: str | None = None
) -> npt.NDArray[np.float32]:
    """A new array of `value`'s numbers as float32, finite there. Errors say that `name` was `expected`; their `field`
    is `name` if not given."""
    try:
        given = np.asarray(value)
    except (TypeError, ValueError) as error:  # rows of different lengths
        raise _refusal(InvalidArgument, name, expected, value, field) from error
    # NumPy reads numbers out of texts, and NaN out of None.
    others = given.dtype.kind == "O" and any(isinstance(item, str | bytes | None) for item in given.flat)
    if others or given.dtype.kind not in "biufO":
        raise _refusal(WrongArgumentType, name, expected, value, field)
    try:
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, and are refused below
            rows = np.array(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise _refusal(WrongArgumentType, name, expected, value, field) from error
    except OverflowError as error:
        raise _refusal(InvalidArgument, name, "finite numbers within float32", value, field) from error
    finite = np.isfinite(rows)
    if not finite.all():
        place = np.argwhere(~finite)[0].tolist()
        at = f" at {place}" if place else ""
        found = given[tuple(place)]
        found = found.item() if isinstance(found, np.floating) else found  # its repr would be np.float64(nan)
        fault = f"{name}: expected finite numbers within float32; found {brief(found)}{at}"
        raise InvalidArgument(fault, field=field or name)
    return rows


def kind(name: str, value: Any, kinds: type | tuple[type, ...], expected: str) -> None:
    """Raise WrongArgumentType unless `value` is of one of `kinds`, which `expected` says in words."""
    if not isinstance(value, kinds):
        raise _refusal(WrongArgumentType, name, expected, value)


def _scalar(value: Any) -> Any:
    """The scalar of a 0-d array; anything else as it is."""
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _whole(value: Any) -> int | None:
    """`value` as an int, or None if it is no whole number."""
    if _is(value, numbers.Integral):
        return int(value)
    if not _is(value, numbers.Real):
        return None
    try:
        number = math.floor(value)
    except (OverflowError, ValueError):  # infinite, or NaN
        return None
    return number if number == value else None


def _is(value: Any, kind: type) -> bool:
    """Whether `value` is of `kind`. Booleans and durations are not, though they are registered as integers."""
    if type(value) in (int, float):  # 0.1 us, against 0.5 us for the line below
        return kind is numbers.Real or type(value) is int
    return isinstance(value, kind) and not isinstance(value, bool | np.timedelta64)


def _refusal(
    kind: type[InvalidArgument], name: str, expected: object, found: Any, field: str | None = None
) -> InvalidArgument:
    return kind(f"{name}: expected {expected}; found {brief(found)}", field=field or name)


def brief(value: Any) -> str:
    """`value` in one line of at most 80 characters."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python prints no integer of more than 4300 digits
        text = f"a {type(value).__name__} of too many digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
