"""The numbers that callers pass: the range of each, and the one check of them all.

A number is a Python or NumPy scalar or a 0-d array; booleans are none. A check returns the plain Python number, or
raises InvalidArgument or WrongArgumentType with the parameter's name. An integer given for a real number stays one, so
that it is sent as it was given.
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
        """`value` as an int."""
        value = _scalar(value)
        if not _is(value, numbers.Integral):
            raise _refusal(WrongArgumentType, name, self, value)
        number = int(value)
        if not self.least <= number <= self.most:
            raise _refusal(InvalidArgument, name, self, value)
        return number

    def or_none(self, name: str, value: Any) -> int | None:
        """`value` as an int, or None if it is None."""
        return None if value is None else self(name, value)


@dataclass(frozen=True)
class Real:
    """The finite numbers from `least` to `most`; with `above`, `least` itself is none of them."""

    least: float
    most: float = FLOAT_MAX
    above: bool = False

    def __str__(self) -> str:
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
DEADLINE_MS = Real(-FLOAT_MAX, LONGEST_DEADLINE_MS)  # 0 and less: it has passed, which is DeadlineExceeded
SEED = Whole(0, 2**64 - 1)
TEMPERATURE = Real(0, 2)
PRIORITY = Whole(0, 9)

TIMEOUT_S = Real(0, LONGEST_WAIT_S, above=True)
TRANSIT_MS = Real(0, LONGEST_DEADLINE_MS)
HZ = Real(0.001, 1e6)
AFTER_MS = Real(0, LONGEST_DEADLINE_MS)
SHARE = Real(0, 1)
SHARE = Real(0, 1)
WAIT_S = Real(0, LONGEST_WAIT_S)
RETRY_AFTER_S = Real(0)
COUNT = Whole(0)
AT_LEAST_ONE = Whole(1)
EPISODE = Whole(0, 2**33 - 1)  # its actions' seeds stay below 2^53


def seed(name: str, value: Any) -> int | list[int] | npt.NDArray[np.integer] | None:
    """A seed, a list or tuple of one per row, or an array (B,) of them, which stays one; or None."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        if value.dtype.kind not in "iu":
            raise _refusal(WrongArgumentType, name, "integers", value)
        if not value.size or value.min() < 0:
            raise _refusal(InvalidArgument, name, f"one or more, each {SEED}", value)
        return value
    if isinstance(value, list | tuple):
        if not value:
            raise _refusal(InvalidArgument, name, "one or more", value)
        return [SEED(name, row) for row in value]
    return SEED.or_none(name, value)


def observation(name: str, value: Any) -> npt.NDArray[np.float32]:
    """An array of numbers that are finite in float32, as float32."""
    expected = "an array of numbers"
    try:
        given = np.asarray(value)
    except (TypeError, ValueError) as error:  # rows of different lengths
        raise _refusal(InvalidArgument, name, expected, value) from error
    texts = given.dtype.kind == "O" and any(isinstance(item, str | bytes) for item in given.flat)
    if texts or given.dtype.kind not in "biufO":
        raise _refusal(WrongArgumentType, name, expected, value)
    try:
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, and are refused below
            rows = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise _refusal(WrongArgumentType, name, expected, value) from error
    except OverflowError as error:
        raise _refusal(InvalidArgument, name, "finite numbers within float32", value) from error
    finite = np.isfinite(rows)
    if not finite.all():
        place = np.argwhere(~finite)[0].tolist()
        at = f" at {place}" if place else ""
        raise InvalidArgument(
            f"{name}: expected finite numbers within float32; found {brief(given[tuple(place)])}{at}", field=name
        )
    return rows


def kind(name: str, value: Any, kinds: type | tuple[type, ...], expected: str) -> None:
    """Raise WrongArgumentType unless `value` is of one of `kinds`, which `expected` says in words."""
    if not isinstance(value, kinds):
        raise _refusal(WrongArgumentType, name, expected, value)


def _scalar(value: Any) -> Any:
    """The scalar of a 0-d array; anything else as it is."""
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _is(value: Any, kind: type) -> bool:
    """Whether `value` is of `kind`. Booleans and durations are not, though they are registered as integers."""
    if type(value) in (int, float):  # 0.1 us, against 0.5 us for the line below
        return kind is numbers.Real or type(value) is int
    return isinstance(value, kind) and not isinstance(value, bool | np.timedelta64)


def _refusal(kind: type[InvalidArgument], name: str, expected: object, found: Any) -> InvalidArgument:
    return kind(f"{name}: expected {expected}; found {brief(found)}", field=name)


def brief(value: Any) -> str:
    """`value` in one line of at most 80 characters."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python prints no integer of more than 4300 digits
        text = f"a {type(value).__name__} of too many digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
