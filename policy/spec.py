"""`PolicySpec`: everything about a policy except its weights, with its JSON form. Unknown keys are errors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from policy.errors import SpecError

FORMAT_VERSION = 1
_ADDED = ("observation_keys", "action_horizon", "prefix_max", "coherence", "temperature")  # what version 1 has gained


@dataclass(frozen=True)
class Budget:
    """A compute budget: `num_candidates` (N) in parallel, `num_steps` (M) in sequence for each."""

    num_candidates: int
    num_steps: int


@dataclass(frozen=True)
class Measurement:
    """The success rate, in [0, 1], measured at one (N, M), with its 95 % Wilson interval [low, high]."""

    num_candidates: int
    num_steps: int
    success: float
    low: float
    high: float
    episodes: int


@dataclass(frozen=True)
class ObservationKey:
    """A part of the observation: `size` numbers that a robot knows by `name`, e.g. joint_pos of 7."""

    name: str
    size: int


@dataclass(frozen=True)
class Provenance:
    """How a policy was made: data, training run and code."""

    environment: str = ""
    dataset_sha256: str = ""
    updates: int = 0
    seed: int = 0
    code_revision: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: str = ""


@dataclass(frozen=True)
class PolicySpec:
    """Everything that code needs to know to run a policy's weights.

    Units: the networks take observations normalised by `normaliser` and actions in [-1, 1]. `action_low` and
    `action_high`, (action_dim,), are in environment units. `observation_keys` are the parts of an observation, in the
    order in which they make the vector that the networks take; none: nobody has named them. They are a tuple and not a
    mapping, since the JSON form sorts the keys of mappings, which would lose that order.

    `action_horizon` is the number h of actions that the policy proposes at once, a chunk. The networks see a chunk as
    one vector of `chunk_dim` = h * action_dim numbers, action by action.

    A robot may name the first actions of a chunk that it will have executed before the chunk arrives: it is committed
    to them. `prefix_max` is how many of them the networks take as an input (see `policy.prefix`), and `coherence` the
    share of candidates that are left out for lying far from them, unless a request says another.

    `temperature` scales the noise that the flow starts from, unless a request says another. `frontier` and `headline`
    were measured at it.

    Raises:
        SpecError: a field is out of range; the message names the field and the range.
    """

    name: str
    obs_dim: int
    action_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    actor_hidden: tuple[int, ...] = (512, 512, 512, 512)
    critic_hidden: tuple[int, ...] = (512, 512, 512, 512)
    ensemble_size: int = 2
    critic_layer_norm: bool = True
    q_agg: Literal["mean", "min"] = "mean"
    critic_conditioning: Literal["steps", "none"] = "steps"
    denoise_timesteps: int = 8
    max_backprop_steps: int = 8
    control_hz: float = 20.0
    normaliser: Literal["identity", "standardise"] = "identity"
    default_budget: Budget = Budget(num_candidates=32, num_steps=4)
    frontier: tuple[Measurement, ...] = ()
    headline: Measurement | None = None
    provenance: Provenance = Provenance()
    observation_keys: tuple[ObservationKey, ...] = ()
    action_horizon: int = 1
    prefix_max: int = 0
    coherence: float = 0.5
    temperature: float = 1.0
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.format_version > FORMAT_VERSION:
            raise SpecError(
                f"format_version is {self.format_version}, and this release reads up to {FORMAT_VERSION}: "
                "serve it with a newer release"
            )
        _require(self.format_version == FORMAT_VERSION, "format_version", f"be {FORMAT_VERSION}", self.format_version)
        _require(bool(self.name) and self.name.isprintable(), "name", "be a printable, non-empty string", self.name)
        for name in ("obs_dim", "action_dim", "action_horizon", "ensemble_size"):
            _require(getattr(self, name) >= 1, name, "be at least 1", getattr(self, name))
        for name in ("actor_hidden", "critic_hidden"):
            widths = getattr(self, name)
            _require(len(widths) >= 1 and all(w >= 1 for w in widths), name, "be positive widths", widths)
        for name in ("denoise_timesteps", "max_backprop_steps"):
            _require(_is_power_of_two(getattr(self, name)), name, "be a power of two", getattr(self, name))
        _require(
            self.max_backprop_steps <= self.denoise_timesteps,
            "max_backprop_steps",
            f"be at most denoise_timesteps ({self.denoise_timesteps})",
            self.max_backprop_steps,
        )
        for name in ("action_low", "action_high"):
            limits = getattr(self, name)
            expected = f"have {self.action_dim} finite numbers (action_dim)"
            _require(len(limits) == self.action_dim and all(map(math.isfinite, limits)), name, expected, limits)
        _require(
            all(low < high for low, high in zip(self.action_low, self.action_high, strict=True)),
            "action_low",
            "be below action_high",
            self.action_low,
        )
        _require(math.isfinite(self.control_hz) and self.control_hz > 0, "control_hz", "be positive", self.control_hz)
        expected = f"be 0 to {self.action_horizon - 1} (action_horizon - 1)"
        _require(0 <= self.prefix_max < self.action_horizon, "prefix_max", expected, self.prefix_max)
        _require(0 <= self.coherence <= 1, "coherence", "be in [0, 1]", self.coherence)
        _require(0 <= self.temperature <= 2, "temperature", "be in [0, 2]", self.temperature)
        self._check_cell("default_budget", self.default_budget)
        for index, cell in enumerate(self.frontier):
            self._check_cell(f"frontier[{index}]", cell)
        if self.headline is not None:
            self._check_cell("headline", self.headline)
        if self.observation_keys:
            self._check_observation_keys()

    def _check_cell(self, name: str, cell: Budget | Measurement) -> None:
        _require(cell.num_candidates >= 1, f"{name}.num_candidates", "be at least 1", cell.num_candidates)
        expected = f"be 1 to {self.denoise_timesteps} (denoise_timesteps)"
        _require(1 <= cell.num_steps <= self.denoise_timesteps, f"{name}.num_steps", expected, cell.num_steps)
        if isinstance(cell, Measurement):
            ordered = 0 <= cell.low <= cell.success <= cell.high <= 1
            _require(ordered, name, "have 0 <= low <= success <= high <= 1", cell)
            _require(cell.episodes >= 1, f"{name}.episodes", "be at least 1", cell.episodes)

    def _check_observation_keys(self) -> None:
        names = [key.name for key in self.observation_keys]
        for index, key in enumerate(self.observation_keys):
            where = f"observation_keys[{index}]"
            expected = "be a printable, non-empty string"
            _require(bool(key.name) and key.name.isprintable(), f"{where}.name", expected, key.name)
            _require(key.name not in names[:index], f"{where}.name", "not be there twice", key.name)
            _require(key.size >= 1, f"{where}.size", "be at least 1", key.size)
        total = sum(key.size for key in self.observation_keys)
        _require(total == self.obs_dim, "observation_keys", f"add up to {self.obs_dim} (obs_dim)", total)

    @property
    def chunk_dim(self) -> int:
        """Numbers in a chunk, what the networks take and return."""
        return self.action_horizon * self.action_dim

    @property
    def input_dim(self) -> int:
        """Numbers that the networks take beside an action: the observation's, then those of `policy.prefix`."""
        return self.obs_dim + self.prefix_max * (self.action_dim + 1)

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Of what a request is answered with: (action_dim,), or (action_horizon, action_dim) of a chunk."""
        return (self.action_dim,) if self.action_horizon == 1 else (self.action_horizon, self.action_dim)

    def action_to_environment(self, action: Any) -> Any:
        """(..., chunk_dim) in [-1, 1] -> (..., *action_shape) in environment units. Limits of +-1 change no bit."""
        like = type(action)
        action = action.reshape(*action.shape[:-1], *self.action_shape)
        scale = [(high - low) / 2 for low, high in zip(self.action_low, self.action_high, strict=True)]
        offset = [(high + low) / 2 for low, high in zip(self.action_low, self.action_high, strict=True)]
        if like.__module__.startswith("torch"):
            return action * action.new_tensor(scale) + action.new_tensor(offset)
        return (action * scale + offset).astype(action.dtype)

    def action_from_environment(self, action: Any) -> Any:
        """(..., action_dim) in environment units -> the same in [-1, 1], clipped to them. NumPy arrays only."""
        scale = [2 / (high - low) for low, high in zip(self.action_low, self.action_high, strict=True)]
        offset = [(high + low) / 2 for low, high in zip(self.action_low, self.action_high, strict=True)]
        return ((action - offset) * scale).clip(-1, 1).astype(action.dtype)

    def to_json(self) -> str:
        """Without the keys of `_ADDED` that have their default: such files are as they were before there were any."""
        value = asdict(self)
        for name in _ADDED:
            if getattr(self, name) == getattr(PolicySpec, name):
                del value[name]
        return json.dumps(value, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> PolicySpec:
        """Parse what `to_json` wrote.

        Raises:
            SpecError: the text is not JSON, a key is unknown or missing, a type is wrong, or a value is out of range.
        """
        try:
            value = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise SpecError(f"the specification is not JSON: {error}") from None
        version = value.get("format_version") if isinstance(value, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            # Checked first: a newer file may have keys that are unknown here.
            raise SpecError(
                f"format_version is {version}, and this release reads up to {FORMAT_VERSION}: "
                "serve it with a newer release"
            )
        spec: PolicySpec = _parse(cls, value, "spec")
        return spec


def _is_power_of_two(value: int) -> bool:
    return value >= 1 and value & (value - 1) == 0


def _require(condition: bool, name: str, expected: str, found: object) -> None:
    if not condition:
        raise SpecError(f"{name} must {expected}, found {found!r}")


def _parse(kind: Any, value: Any, where: str) -> Any:
    """Convert plain JSON to the annotated type `kind`. A SpecError names the field by its path, `where`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _parse_dataclass(kind, value, where)
    if origin in (Union, UnionType):
        if value is None:
            return None
        return _parse(next(option for option in arguments if option is not type(None)), value, where)
    if origin is Literal:
        if value not in arguments:
            raise SpecError(f"{where} must be one of {', '.join(map(repr, arguments))}, found {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise SpecError(f"{where} must be a list, found {value!r}")
        return tuple(_parse(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, dict):
            raise SpecError(f"{where} must be an object, found {value!r}")
        return value
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise SpecError(f"{where} must be of type {kind.__name__}, found {value!r}")
    return float(value) if kind is float else value


def _parse_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise SpecError(f"{where} must be an object, found {value!r}")
    known = {entry.name: entry for entry in fields(kind)}
    unknown = sorted(set(value) - set(known))
    if unknown:
        raise SpecError(f"unknown key {unknown[0]!r} in {where}")
    for name, entry in known.items():
        if name not in value and entry.default is MISSING and entry.default_factory is MISSING:
            raise SpecError(f"{where}.{name} is missing")
    hints = get_type_hints(kind)
    return kind(**{name: _parse(hints[name], item, f"{where}.{name}") for name, item in value.items()})
