"""The ranges of a config's numbers: written in the types of its fields, and checked in one place, `require_ranges`.

    batch_size: Annotated[int, Range(1, 2**24)] = 256
    hidden: Annotated[tuple[Annotated[int, Range(1, 65_536)], ...], OneOrMore()] = (512, 512)

Every number of a command's config has one; a test holds that. What relates two settings stays in their config.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

MOST = 10**12
"""The most of anything that is counted one after the other: updates, episodes, rows."""
MOST_WORKERS = 1024
"""The most threads or processes; more than the cores of any machine. A process that cannot start its threads aborts."""


@dataclass(frozen=True)
class Range:
    """The finite numbers from `low` to `high`. `above` leaves out `low` itself, `below` leaves out `high`."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        enough = value > self.low if self.above else value >= self.low
        little = value < self.high if self.below else value <= self.high
        return enough and little and abs(value) < math.inf  # also of integers too large for a float

    def __str__(self) -> str:
        if math.isinf(self.low) and math.isinf(self.high):
            return "finite"
        if not (math.isinf(self.low) or math.isinf(self.high) or self.above or self.below):
            return f"from {self.low} to {self.high}"
        low = f"{'above' if self.above else 'at least'} {self.low}"
        high = f"{'below' if self.below else 'at most'} {self.high}"
        return " and ".join(part for part in (low, high) if "inf" not in part)


@dataclass(frozen=True)
class PowerOfTwo:
    """1, 2, 4 and so on, up to `high`."""

    high: int

    def __contains__(self, value: int) -> bool:
        return 1 <= value <= self.high and value & (value - 1) == 0

    def __str__(self) -> str:
        return f"a power of two from 1 to {self.high}"


@dataclass(frozen=True)
class OneOrMore:
    """A sequence that is not empty."""

    def __contains__(self, value: tuple[Any, ...]) -> bool:
        return len(value) > 0

    def __str__(self) -> str:
        return "one or more numbers"


POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)
FINITE = Range()
TRAINING_SEED = Range(-(2**63), 2**64 - 1)
"""As torch.manual_seed takes them."""
EPISODES = Range(1, 2**20)
EPISODE_SEED = Range(0, 2**33 - 2**20)
"""An episode's number is below 2^33: see `sorl_client.episodes.EpisodeSeeds`. The first seed leaves room for all."""
CANDIDATES = Range(1, 2**20)
STEPS = Range(1, 4096)

Rule = Range | PowerOfTwo | OneOrMore


def require_ranges(config: Any, error: type[ValueError] = ValueError) -> None:
    """Check every number of a config, a dataclass, against the range in its field's type.

    Raises:
        error: a number is out of range; the message names the command's flag, the range and the number.
    """
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        for rule, value in _ruled(hint, getattr(config, name)):
            if value not in rule:
                raise error(f"{flag(name)} must be {rule}, got {value}")


def flag(name: str) -> str:
    """The command-line flag of a field, e.g. --batch-size."""
    return f"--{name.replace('_', '-')}"


def _ruled(hint: Any, value: Any) -> Iterator[tuple[Rule, Any]]:
    """The rules inside a type, each with the part of `value` that it applies to."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        yield from ((rule, value) for rule in arguments[1:] if isinstance(rule, Rule))
        yield from _ruled(arguments[0], value)
    elif origin in (Union, UnionType) and value is not None:
        yield from _ruled(next(kind for kind in arguments if kind is not type(None)), value)
    elif origin is tuple:
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        for kind, item in zip(kinds, value, strict=True):
            yield from _ruled(kind, item)
