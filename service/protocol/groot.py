"""GR00T's protocol: one msgpack frame each way, over ZeroMQ.

A request is {"endpoint": ..., "data": {...}, "api_token": ...}. `get_action` has {"observation": ..., "options": ...}
as its data: options are the other fields of POST /act, and observations are the arrays of a policy's states:

    {"state": {"joint_pos": (B, 1, 7), "gripper": (B, 1, 1)}}        by modality
    {"state.joint_pos": (B, 1, 7), "state.gripper": (B, 1, 1)}       flat, as in simulation
    {"state": (B, 1, obs_dim)}, {"observation": ...}                 one vector: any key that POST /act has for it

An array is {"__ndarray_class__": true, "as_npy": bytes of a .npy file}. The reply to `get_action` is [action, info]:
{"action": (B, horizon, action_dim)} in environment units, and what else POST /act says. An error is
{"error": "code: detail"} beside the members of an HTTP problem.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgpack  # type: ignore[import-untyped, unused-ignore]
import numpy as np
from numpy.lib import format as npy

from service.errors import InvalidRequest, NotFound, PayloadTooLarge, ServiceError, Unauthorized
from service.protocol import codec
from service.protocol.codec import brief, refuse
from service.protocol.replies import Answer, act_reply
from service.protocol.schemas import ActRequest, parse_act

GET_ACTION = "get_action"
ENDPOINTS = ("get_action", "get_modality_config", "ping", "reset")
"""The original has `kill` too, which ends the server. Nobody who can reach the port may do that here."""

ACTION = "action"

_MOST_HEADER = 512  # bytes before an array's numbers: 128 as NumPy writes them
_OTHER_MODALITIES = ("video", "language")  # a policy of states takes them empty


@dataclass(frozen=True)
class Call:
    """A request to an endpoint.

    Attributes:
        endpoint: its name, which may be unknown.
        data: as it came; only what the endpoint reads is checked.
        credential: as in the HTTP header Authorization.
    """

    endpoint: str
    data: Mapping[Any, Any]
    credential: str | None


def parse_call(frames: Sequence[bytes], max_bytes: int) -> Call:
    """The call in a message's frames, without those that say where it came from.

    Raises:
        PayloadTooLarge: longer than `max_bytes`.
        InvalidRequest: more or less than one frame, or not a msgpack map of a request's members.
    """
    if len(frames) != 1:
        raise InvalidRequest(f"expected a message of one frame, found {len(frames)}")
    frame = frames[0]
    if len(frame) > max_bytes:
        raise PayloadTooLarge(f"the message has {len(frame)} bytes, above {max_bytes}; send states only, no images")
    members = codec.decode(frame, codec.MSGPACK, needs="endpoint")
    for name in members:
        if name not in ("endpoint", "data", "api_token"):
            raise InvalidRequest(f"{brief(name)}: there are endpoint, data and api_token", field=name[:80])
    endpoint = members.get("endpoint", GET_ACTION)  # the original's default
    if not isinstance(endpoint, str):
        refuse("endpoint", "a string", endpoint)
    token = members.get("api_token")
    if token is not None and not isinstance(token, str):
        refuse("api_token", "a string", None)  # what it was is nobody's business
    return Call(endpoint, _map("data", members.get("data")), None if token is None else f"Bearer {token}")


def check_endpoint(endpoint: str) -> None:
    """Raises NotFound unless there is such an endpoint."""
    if endpoint not in ENDPOINTS:
        raise NotFound(f"endpoint: {brief(endpoint)} is not served; there are {', '.join(ENDPOINTS)}", field="endpoint")


def act_fields(data: Mapping[Any, Any]) -> dict[str, Any]:
    """The fields of POST /act in the data of a `get_action`.

    Raises:
        InvalidRequest: unknown members, parts of an observation that a policy of states does not take, or an array
            that is no .npy file.
    """
    for name in data:
        if name not in ("observation", "options"):
            refuse("data", "observation and options", brief(name))
    fields = _observation(data.get("observation"))
    for name, value in _map("options", data.get("options")).items():
        if not isinstance(name, str) or name.startswith(("observation", "state")):
            refuse("options", "fields of POST /act beside the observation", brief(name))
        fields[name] = codec.scalar(_array(value, name), name)
    return fields


def parse_get_action(fields: dict[str, Any]) -> ActRequest:
    """The request in the fields of `act_fields`. Raises InvalidRequest, as POST /act does."""
    return parse_act(fields, codec.MSGPACK)


def model_name(data: Mapping[Any, Any]) -> str | None:
    """The model that `get_modality_config` is asked about, which the original has not: None is the default one."""
    name = data.get("model")
    if name is not None and not isinstance(name, str):
        refuse("model", "a name from /models", name)
    return name


def action_reply(answer: Answer, timing: Callable[[], dict[str, float]]) -> bytes:
    """[action, info], encoded. `timing` ends the measurement, as for `Incoming.answered`."""
    info = act_reply(answer)
    del info["action"]
    action = answer.chunks.astype(np.float32, copy=False)
    head = msgpack.Packer().pack_array_header(2) + encode({ACTION: action})
    return bytes(head + codec.append(encode(info), {"timing_ms": timing()}, codec.MSGPACK))


def error_reply(error: ServiceError, request_id: str) -> bytes:
    """An error, encoded."""
    if isinstance(error, Unauthorized):
        error = Unauthorized("expected api_token with this server's key")  # here it is no header
    return encode({"error": f"{error.code}: {error.detail}", **error.problem(), "request_id": request_id})


def modality_config(described: Mapping[str, Any]) -> dict[str, Any]:
    """GR00T's `get_modality_config` for a model, from its entry in /models, which comes with it as `policy`."""
    return {
        "state": _modality([key["name"] for key in described["observation_keys"]] or ["state"], 1),
        "action": _modality([ACTION], described["action_horizon"]),
        "policy": dict(described),
    }


def encode(value: Any) -> bytes:
    """A reply's frame. NumPy arrays become .npy files."""
    packed: bytes = msgpack.packb(value, default=_pack_array)
    return packed


def _observation(value: Any) -> dict[str, Any]:
    """The fields of POST /act that hold an observation. Which of them go together is for `parse_act` to say."""
    if value is None:
        return {}
    if not isinstance(value, dict) or _is_array(value):
        return {"observation": _arrays(value, "observation")}
    fields: dict[str, Any] = {}
    for key, item in value.items():
        for field, array in _spelt(str(key), item).items():
            if field in fields:
                raise InvalidRequest(f"{brief(field)} is there twice", field=field)
            fields[field] = _arrays(array, field)
    return fields


def _spelt(name: str, value: Any) -> dict[str, Any]:
    """A member of GR00T's observation as fields of POST /act. Raises InvalidRequest for what holds no state."""
    if name == "state" and isinstance(value, dict) and not _is_array(value):
        return {f"observation/{part}": array for part, array in value.items()}
    if name.startswith("state."):
        return {f"observation/{name.removeprefix('state.')}": value}
    if name == "state" or name.startswith("observation"):
        return {name: value}
    if name in _OTHER_MODALITIES and not value:
        return {}
    refuse("observation", "state, state.NAME or observation, as a policy here takes nothing else", brief(name))


def _is_array(value: dict[Any, Any]) -> bool:
    return "__ndarray_class__" in value or codec.array_marker(value) is not None


def _arrays(value: Any, field: str) -> Any:
    """An array, or a dict of arrays, in the form that `codec` reads."""
    if isinstance(value, dict) and not _is_array(value):
        return {part: _array(item, f"{field}/{part}") for part, item in value.items()}
    return _array(value, field)


def _array(value: Any, field: str) -> Any:
    """GR00T's array in the form that `codec` reads, which checks dtype and length; anything else as it is."""
    if not isinstance(value, dict) or "__ndarray_class__" not in value:
        return value
    data = value.get("as_npy")
    if not isinstance(data, bytes):
        refuse(field, "as_npy as the bytes of a .npy file", brief(data))
    start = _end_of_header(data, field)
    try:
        shape, fortran_order, dtype = _read_header(data[:start])
    except Exception as error:  # NumPy's reader raises what its parsers do: ValueError, TokenError, RecursionError, ...
        raise InvalidRequest(f"{field}: the .npy file's header is damaged: {brief(str(error))}", field=field) from None
    array = {"__ndarray__": True, "data": data[start:], "dtype": dtype.str, "shape": list(shape)}
    if not fortran_order:
        return array
    values = codec.decode_array({**array, "shape": list(reversed(shape))}, field).T
    return {**array, "data": values.tobytes()}


def _end_of_header(data: bytes, field: str) -> int:
    """Where the numbers begin. Raises InvalidRequest unless a header of a sane length comes before them."""
    size = {b"\x01\x00": 2, b"\x02\x00": 4}.get(data[6:8])
    if data[:6] != npy.MAGIC_PREFIX or size is None:
        refuse(field, "the bytes of a .npy file of version 1.0 or 2.0", data[:8])
    end = 8 + size + int.from_bytes(data[8 : 8 + size], "little")
    if end > min(len(data), _MOST_HEADER):
        raise InvalidRequest(f"{field}: the .npy file ends inside its header", field=field)
    return end


# A robot's arrays have the same header every time, and parsing it takes 40 us.
@lru_cache(maxsize=256)
def _read_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, is it in Fortran order, dtype)."""
    file = io.BytesIO(header)
    read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old files and odd escapes: clients do not write this server's log
        return read(file, max_header_size=_MOST_HEADER)


def _pack_array(value: Any) -> dict[str, Any]:
    file = io.BytesIO()
    npy.write_array(file, np.asarray(value), version=(1, 0), allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def _modality(keys: list[str], steps: int) -> dict[str, Any]:
    """GR00T's ModalityConfig: `steps` from now on, of the arrays called `keys`."""
    return {"__ModalityConfig_class__": True, "as_json": {"delta_indices": list(range(steps)), "modality_keys": keys}}


def _map(field: str, value: Any) -> dict[Any, Any]:
    if value is not None and not isinstance(value, dict):
        refuse(field, "a map", brief(value))
    return value or {}
