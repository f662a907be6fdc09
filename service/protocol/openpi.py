"""openpi's websocket protocol, and vLLM-Omni's form of it: frames to fields, answers to frames.

The server's first frame is its metadata. From then on every frame of the client is answered by one, in order. Frames
are msgpack, with arrays as `codec` has them; in openpi's own form an error is text. Its client may take steps of time
from the first axis of every array in a reply, so nothing but `actions` is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotReady,
    Overloaded,
    RateLimited,
    RetryLater,
    ServiceError,
)
from service.protocol import codec
from service.protocol.codec import MSGPACK, brief, refuse
from service.protocol.replies import Answer, act_reply
from service.protocol.schemas import ActRequest, parse_act, part_names

Frame = bytes | str

SERVICE_RESTART = 1012
INTERNAL_ERROR = 1011
NORMAL_CLOSURE = 1000


@dataclass(frozen=True)
class Outgoing:
    """A frame to the client. The session ends after it with the close code `close`, if there is one."""

    frame: Frame
    close: int | None = None


class Form(Protocol):
    """What openpi's own protocol and vLLM-Omni's form of it do each in their way.

    Attributes:
        idle_seconds: a session in which the client sends nothing for so long ends; None: it lasts.
    """

    idle_seconds: float | None

    def control_reply(self, frame: Frame) -> bytes | None:
        """The reply to a frame that asks for no action; None if it asks for one."""
        ...

    def fields(self, frame: Frame) -> dict[str, Any]:
        """What the frame says, as POST /act's fields. Raises InvalidRequest."""
        ...

    def answered(self, answer: Answer, timing: Callable[[], dict[str, float]], previous_ms: float | None) -> Outgoing:
        """The reply. `timing` ends the measurement; `previous_ms`: the request before, from receipt to reply."""
        ...

    def refused(self, error: ServiceError) -> Outgoing:
        """The reply for an error."""
        ...


class Openpi:
    """openpi's own form."""

    idle_seconds: float | None = None

    def control_reply(self, frame: Frame) -> bytes | None:
        """`{}` for the start and the end of an episode, as newer clients announce them: no state is kept here."""
        if _value_of(frame, "__ctrl__") in ("episode_start", "episode_end"):
            return codec.encode({}, MSGPACK)
        return None

    def fields(self, frame: Frame) -> dict[str, Any]:
        """The frame's own."""
        return _decode(frame)

    def answered(self, answer: Answer, timing: Callable[[], dict[str, float]], previous_ms: float | None) -> Outgoing:
        """The members of /act's reply, with `actions` in place of `action`, and `server_timing`."""
        members = act_reply(replace(answer, single=True))
        del members["action"]
        plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in members.items()}
        encoded = codec.encode({"actions": _actions(answer), **plain}, MSGPACK)
        measured = timing()
        server_timing = {"infer_ms": measured["compute"], "queue_ms": measured["queue"]}
        if previous_ms is not None:
            server_timing["prev_total_ms"] = previous_ms
        return Outgoing(codec.append(encoded, {"server_timing": server_timing}, MSGPACK))

    def refused(self, error: ServiceError) -> Outgoing:
        """Text, which the client raises. What the next request may not meet leaves the session open."""
        if isinstance(error, (Overloaded, RateLimited, DeadlineExceeded)):
            return Outgoing(_worded(error))
        return Outgoing(_worded(error), SERVICE_RESTART if isinstance(error, NotReady) else INTERNAL_ERROR)


class VllmOmni:
    """The form of vLLM-Omni: bare actions, errors as objects, and sessions that outlive errors but not idleness."""

    idle_seconds: float | None = 30.0

    def control_reply(self, frame: Frame) -> bytes | None:
        """To `{"endpoint": "reset"}`: no state is kept here."""
        if _value_of(frame, "endpoint") == "reset":
            return codec.encode({"status": "reset successful"}, MSGPACK)
        return None

    def fields(self, frame: Frame) -> dict[str, Any]:
        """The frame's own. `num_steps` is called `sampling_params.num_inference_steps`. `session_id` means nothing
        here: no state is kept.
        """
        fields = _decode(frame)
        fields.pop("session_id", None)
        if fields.get("endpoint") == "infer":
            del fields["endpoint"]
        sampling = fields.pop("sampling_params", None)
        if sampling is not None:
            fields["num_steps"] = _inference_steps(sampling, fields)
        return fields

    def answered(self, answer: Answer, timing: Callable[[], dict[str, float]], previous_ms: float | None) -> Outgoing:
        """The actions as an array, and nothing else."""
        encoded = codec.encode(_actions(answer), MSGPACK)
        timing()
        return Outgoing(encoded)

    def refused(self, error: ServiceError) -> Outgoing:
        """An object of the type error."""
        return Outgoing(codec.encode({"type": "error", "message": _worded(error)}, MSGPACK))


OPENPI, VLLM_OMNI = Openpi(), VllmOmni()


def metadata(description: dict[str, Any]) -> bytes:
    """The first frame, from a model's entry in /models, which has the action_horizon."""
    rest = {name: value for name, value in description.items() if name not in ("name", "version")}
    names = {"model": description["name"], "model_version": description["version"]}
    return codec.encode({**names, **rest}, MSGPACK)


def parse(fields: dict[str, Any]) -> ActRequest:
    """The request. Raises InvalidRequest, also for several observations: a reply has one axis, that of time."""
    request = parse_act(fields, MSGPACK)
    observation = request.observation
    vector = next(iter(observation.values())) if isinstance(observation, Mapping) else observation
    if not request.single and len(vector) > 1:
        refuse("observation", "one, since replies of this protocol have no batch axis", len(vector))
    return request


def check_parts(fields: dict[str, Any], description: Mapping[str, Any]) -> None:
    """Look, in a request whose observation is refused, for parts that the model does not take, such as an image. To
    name those helps more than what is wrong with their shapes.

    Args:
        description: the model's entry in /models.

    Raises:
        InvalidRequest: there is one; the parts that the model takes are named.
    """
    sizes = {key["name"]: key["size"] for key in description["observation_keys"]}
    for part in part_names(fields):
        if part != "state" and part not in sizes:
            taken = ", ".join(f"{name} {size}" for name, size in (sizes or {"state": description["obs_dim"]}).items())
            field = f"observation/{part}"
            raise InvalidRequest(
                f"{brief(field)[1:-1]}: {description['name']!r} has no such part: expected {taken}", field=field
            )


def _actions(answer: Answer) -> NDArray[np.float32]:
    """(action_horizon, action_dim), from the one row of the answer."""
    actions: NDArray[np.float32] = answer.chunks[0]
    return actions


def _decode(frame: Frame) -> dict[str, Any]:
    if isinstance(frame, str):
        raise InvalidRequest("expected a binary frame of msgpack, found a text frame")
    return codec.decode(frame, MSGPACK)


def _value_of(frame: Frame, name: str) -> Any:
    """The value of `name` in the frame; None if it has none. Frames without these letters are not decoded for it."""
    if isinstance(frame, str) or name.encode() not in frame:
        return None
    try:
        return codec.decode(frame, MSGPACK).get(name)
    except InvalidRequest:
        return None  # the frame is read as a request, and refused there


def _inference_steps(sampling: Any, fields: dict[str, Any]) -> Any:
    field = "sampling_params.num_inference_steps"
    if not isinstance(sampling, dict) or set(sampling) != {"num_inference_steps"}:
        refuse("sampling_params", "an object with num_inference_steps alone", brief(sampling))
    if fields.get("num_steps") is not None:
        raise InvalidRequest(f"{field} and num_steps are the same: expected one of them", field=field)
    steps = sampling["num_inference_steps"]
    if type(steps) is not int or steps < 1:
        refuse(field, "an integer of at least 1", brief(steps))
    return steps


def _worded(error: ServiceError) -> str:
    """The code, which programs can tell errors by, and what a person reads. ASCII, as a detail may quote anything."""
    later = f"; try again in {error.retry_after_ms} ms" if isinstance(error, RetryLater) else ""
    return f"{error.code}: {error.detail}{later}".encode("ascii", "backslashreplace").decode("ascii")
