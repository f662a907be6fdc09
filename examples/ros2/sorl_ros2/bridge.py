"""From a robot's messages to a policy's actions, without ROS: `sorl_node` passes messages in and publishes actions."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from sorl_client import Ask, Client, ControlLoop
from sorl_client.served import find, names

Row = npt.NDArray[np.float32]
OnMiss = Literal["hold", "stop"]
Output = Literal["array", "trajectory"]

WHOLE = "state"  # the one part of a policy that has no `observation_keys`
OK, WARN, ERROR = range(3)


class BridgeError(ValueError):
    """A parameter, a message or an observation at fault; `field` names it, and the text says what was expected."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


@dataclass(frozen=True)
class Settings:
    """The node's parameters. Raises BridgeError by a parameter's name.

    url             the server's address
    model           the policy's name; empty: the server's default one
    num_candidates  N; 0: the policy's default, or what there is time for
    num_steps       M; 0: likewise
    deadline_ms     the longest that a tick waits for its action; 0: 80 % of the period
    min_quality     0 to 1: the least measured success of what is computed, as a share of the best N and M's; a tick
                    with no time for that is a miss. 0: no limit
    on_miss         what a tick without an action does: "hold" repeats the last one, "stop" rests until a reset
    rest            the action that stands still; empty: zeros
    joints          joints of `joint_states`, in the policy's order; empty: that topic is not read
    positions       the part of the observation that their positions are; empty: none
    velocities      the part that their velocities are; empty: none
    max_age_ms      a part of the observation that is older is not acted on
    output          "array" or "trajectory"
    action_joints   for trajectories: the joint of each number of an action
    wait_s          the longest wait for the server at the start
    """

    url: str = "http://127.0.0.1:8000"
    model: str = ""
    num_candidates: int = 0
    num_steps: int = 0
    deadline_ms: float = 0.0
    min_quality: float = 0.0
    on_miss: OnMiss = "hold"
    rest: Sequence[float] = ()
    joints: Sequence[str] = ()
    positions: str = "joint_pos"
    velocities: str = ""
    max_age_ms: float = 200.0
    output: Output = "array"
    action_joints: Sequence[str] = ()
    wait_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("url", "model", "positions", "velocities"):
            _require(isinstance(getattr(self, name), str), name, "a text", getattr(self, name))
        for name, choices in (("on_miss", get_args(OnMiss)), ("output", get_args(Output))):
            _require(getattr(self, name) in choices, name, f"one of {', '.join(choices)}", getattr(self, name))
        for name in ("joints", "action_joints"):
            found = getattr(self, name)
            good = _is_list(found, str) and all(found) and len(set(found)) == len(found)
            _require(good, name, "names of joints, each once", found)
        _require(_is_list(self.rest, (int, float)), "rest", "numbers", self.rest)
        for name in ("max_age_ms", "wait_s"):
            found = getattr(self, name)
            good = isinstance(found, int | float) and 0 < found < math.inf
            _require(good, name, "a number above 0", found)


class Status(NamedTuple):
    """How the bridge does, for diagnostics: `OK`, `WARN` or `ERROR`, a sentence, and figures by name."""

    level: int
    message: str
    figures: dict[str, str]


class Observation:
    """The newest of each part of an observation.

    parts      size of each part by its name, in the policy's order
    max_age_s  a part that is older counts as missing
    clock      time in seconds
    """

    def __init__(self, parts: dict[str, int], max_age_s: float, clock: Callable[[], float]) -> None:
        self.parts = parts
        self._max_age_s = max_age_s
        self._clock = clock
        self._came: dict[str, tuple[Row, float]] = {}

    def put(self, name: str, values: Sequence[float]) -> None:
        """Take a part. Raises BridgeError, and keeps what was there, if it has another size or numbers not finite."""
        row = _row(f"observation/{name}", values, self.parts[name])
        self._came[name] = row, self._clock()

    def put_whole(self, values: Sequence[float]) -> None:
        """Take all parts, one after the other in the policy's order. Raises BridgeError like `put`."""
        row, now = _row("observation", values, sum(self.parts.values())), self._clock()
        ends = np.cumsum(list(self.parts.values()))
        pieces = np.split(row, ends[:-1])
        self._came = {name: (piece, now) for name, piece in zip(self.parts, pieces, strict=True)}

    def row(self) -> Row:
        """(obs_dim,), in the policy's order. Raises BridgeError naming the parts that never came, or are too old."""
        oldest = self._clock() - self._max_age_s
        missing = [name for name in self.parts if name not in self._came or self._came[name][1] < oldest]
        if missing:
            raise BridgeError("observation", f"nothing new for {self._max_age_s * 1e3:g} ms of {', '.join(missing)}")
        return np.concatenate([self._came[name][0] for name in self.parts])


def in_order(field: str, joints: Sequence[str], names: Sequence[str], values: Sequence[float]) -> list[float]:
    """The `values` of `joints`, in their order, from a message that has one for each of `names`, in any order.

    Raises BridgeError by `field`: the numbers of names and values differ, or a joint is missing or there twice.
    """
    if len(values) != len(names):
        raise BridgeError(f"joint_states.{field}", f"expected {len(names)}, one for each name; found {len(values)}")
    for joint in joints:
        if (count := list(names).count(joint)) != 1:
            problem = "missing" if count == 0 else f"there {count} times"
            raise BridgeError("joint_states.name", f"{joint} is {problem}; found {', '.join(names) or 'none'}")
    by_name = dict(zip(names, values, strict=True))
    return [by_name[joint] for joint in joints]


class Bridge:
    """One policy and one robot: takes messages, and at every tick publishes an action. One thread may use it.

    client    a `sorl_client.Client`; its owner closes it. The server has to be ready
    settings  the node's parameters
    publish   is given every action, (action_dim,), in environment units
    clock     time in seconds (for tests)

    model, hz, parts, action_dim  what the server says of the policy

    Raises BridgeError or sorl_client's InvalidArgument, by a parameter's name, for what does not fit the policy.
    """

    def __init__(
        self,
        client: Client,
        settings: Settings,
        publish: Callable[[list[float]], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        served = _served(client.models(), settings.model)
        self.model = str(served["name"])
        self.hz = float(served["control_hz"])
        self.action_dim = int(served["action_dim"])
        keys = served.get("observation_keys") or [{"name": WHOLE, "size": served["obs_dim"]}]
        self.parts = {str(key["name"]): int(key["size"]) for key in keys}
        self._joints = tuple(settings.joints)
        self._of_joints = self._parts_of_joints(settings) if self._joints else {}
        named = settings.action_joints
        if settings.output == "trajectory" and len(named) != self.action_dim:
            expected = f"expected {self.action_dim} names, the width of {self.model}'s actions; found {len(named)}"
            raise BridgeError("action_joints", expected)
        self._rest = _row("rest", settings.rest or [0.0] * self.action_dim, self.action_dim)
        self._observation = Observation(self.parts, settings.max_age_ms / 1e3, clock)
        ask = Ask(
            model=self.model,
            num_candidates=settings.num_candidates or None,
            num_steps=settings.num_steps or None,
            deadline_ms=settings.deadline_ms or None,
            min_quality=settings.min_quality or None,
        )
        self._loop = ControlLoop(client, ask, hz=self.hz, on_miss=settings.on_miss, initial=self._rest)
        self._publish = publish
        self._moved = self._stopped = False
        self._lacks: BridgeError | None = None
        self._refused: BridgeError | None = None
        self._error: Exception | None = None
        self._misses_told = 0

    @property
    def topics(self) -> dict[str, str]:
        """The topic of each part that has one of its own: not those of joints, nor of a policy that names no parts.

        Raises BridgeError if two parts would have the same.
        """
        topics: dict[str, str] = {}
        for name in self.parts:
            if name in self._of_joints.values() or list(self.parts) == [WHOLE]:
                continue
            topic = "observation/" + re.sub("[^A-Za-z0-9]+|^(?=[0-9])", "_", name)  # ROS allows nothing else
            if topic in topics.values():
                raise BridgeError("observation_keys", f"more than one part would be at the topic {topic}")
            topics[name] = topic
        return topics

    def receive_joints(self, names: Sequence[str], **values: Sequence[float]) -> None:
        """Take a JointState: its names, `position` and `velocity`. What is at fault is refused, and in the status."""
        try:
            rows = {
                part: in_order(field, self._joints, names, values[field]) for field, part in self._of_joints.items()
            }
            for part, row in rows.items():
                self._observation.put(part, row)
        except BridgeError as error:
            self._refused = error

    def receive(self, values: Sequence[float], part: str | None = None) -> None:
        """Take a part of the observation, or the whole. What is at fault is refused, and in the status."""
        try:
            if part is None:
                self._observation.put_whole(values)
            else:
                self._observation.put(part, values)
        except BridgeError as error:
            self._refused = error

    def tick(self) -> None:
        """Publish an action for what was received; call it `hz` times a second. Returns by the tick's deadline.

        Until the observation is complete, nothing is published. When it gets too old, the action is `rest`.

        Raises sorl_client's RequestRefused if the server refuses the request, since it would refuse the next one too.
        """
        try:
            row = self._observation.row()
        except BridgeError as error:
            if self._lacks is None and not self._stopped:
                self._loop.reset()  # what is held would be from before the gap
            self._lacks = error
            if self._moved:
                self._publish(self._rest.tolist())
            return
        self._lacks = None
        done = self._loop.step(row)
        self._stopped = done.source == "stopped"
        self._error = done.error or self._error
        self._moved = True
        self._publish(done.action.tolist())

    def reset(self) -> None:
        """Go on after a stop, and forget the last action."""
        self._stopped = False
        self._loop.reset()

    def close(self) -> None:
        """Publish `rest`, if anything was published, and ask no more."""
        self._loop.close()
        if self._moved:
            self._publish(self._rest.tolist())

    def status(self) -> Status:
        """How it does. Misses and refused messages are those since the last call; figures are since the start."""
        counts = self._loop.statistics()
        new_misses, self._misses_told = counts.misses - self._misses_told, counts.misses
        refused, self._refused = self._refused, None
        level, message = OK, f"{self.model} at {self.hz:g} Hz"
        if refused is not None:
            level, message = ERROR, f"message refused: {refused}"
        elif self._stopped:
            level, message = ERROR, f"stopped until a reset: {self._error}"
        elif self._lacks is not None or counts.ticks == 0:
            level = ERROR if self._moved else WARN
            message = "resting" if self._moved else "waiting"
            message += f": {self._lacks or 'no tick yet'}"
        elif new_misses:
            level, message = WARN, f"misses since the last report: {new_misses}, the last one: {self._error}"
        figures = {"ticks": str(counts.ticks), "misses": str(counts.misses), "late": str(counts.late)}
        figures |= {source: str(count) for source, count in counts.by_source.items()}
        for name in ("latency_p50_ms", "latency_p99_ms"):
            if (latency := getattr(counts, name)) is not None:
                figures[name] = f"{latency:.2f}"
        return Status(level, message, figures)

    def _parts_of_joints(self, settings: Settings) -> dict[str, str]:
        """The part that each field of a JointState is."""
        parts: dict[str, str] = {}
        for parameter, field in (("positions", "position"), ("velocities", "velocity")):
            part = getattr(settings, parameter)
            if not part:
                continue
            sizes = ", ".join(f"{name} {size}" for name, size in self.parts.items())
            if part not in self.parts or part in parts.values():
                raise BridgeError(parameter, f"expected a part of {self.model}'s observation, {sizes}; found {part!r}")
            if self.parts[part] != len(self._joints):
                found = f"found {len(self._joints)}: {', '.join(self._joints)}"
                raise BridgeError("joints", f"expected {self.parts[part]} names, the size of {part}; {found}")
            parts[field] = part
        return parts


def _served(models: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The entry of the model called `name`; with "", of the server's default. Raises BridgeError."""
    entry = find(models, name or None)
    if entry is None:
        raise BridgeError("model", f"expected one of those served: {names(models)}; found {name!r}")
    return entry


def _row(field: str, values: Sequence[float], width: int) -> Row:
    """(width,), finite. Raises BridgeError by `field`."""
    try:
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and refused below
            row = np.array(values, np.float32)
    except (TypeError, ValueError):
        raise BridgeError(field, f"expected {width} numbers; found {values!r}") from None
    if row.shape != (width,):
        raise BridgeError(field, f"expected {width} numbers; found {len(values)}")
    if not np.isfinite(row).all():
        place = int(np.flatnonzero(~np.isfinite(row))[0])
        raise BridgeError(field, f"expected finite numbers; found {values[place]} at {place}")
    return row


def _is_list(value: object, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, kind) for item in value)


def _require(good: bool, parameter: str, expected: str, found: object) -> None:
    if not good:
        raise BridgeError(parameter, f"expected {expected}; found {found!r}")
