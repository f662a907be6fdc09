"""GR00T's protocol: one msgpack message each way over ZeroMQ. Arrays are .npy files."""

from __future__ import annotations

import io
from typing import Any

import msgpack  # type: ignore[import-untyped, unused-ignore]
import numpy as np

from bench.protocols.wire import STATUS, Ask, Connection, Reply, ServerAddress, WireProtocol, unreadable

PAIR = 0x92
"""The first byte of a msgpack list of two: [action, info]."""


class Groot(WireProtocol):
    transport = "zeromq"

    async def connect(self, at: ServerAddress) -> Connection:
        from bench.protocols.zeromq import ZmqConnection  # pyzmq is an extra

        if at.zeromq is None:
            raise ConnectionRefusedError("the server has no port for ZeroMQ")
        return await ZmqConnection.to(at.zeromq)

    def encode(self, ask: Ask) -> bytes:
        state = {"state": ask.observation[None, None]}  # (B, T, obs_dim)
        data = {"observation": state, "options": ask.options()}
        packed: bytes = msgpack.packb({"endpoint": "get_action", "data": data}, default=_pack_array)
        return packed

    def read(self, raw: bytes) -> Reply:
        try:
            reply = msgpack.unpackb(raw, object_hook=_unpack_array)
            if isinstance(reply, dict):
                return _error(reply)
            action, info = reply
            ((vector,),) = action["action"]  # (B, horizon, action_dim)
            return Reply(200, frozenset((info.get("request_id"),)), {"action": vector, **info})
        except (ValueError, KeyError, TypeError, AttributeError):
            return unreadable(200, frozenset(), raw)

    def is_action(self, raw: bytes) -> bool:
        return raw[:1] == bytes([PAIR])


def _error(reply: dict[str, Any]) -> Reply:
    code, _, detail = str(reply["error"]).partition(": ")
    ids = frozenset((reply.get("request_id"),))
    if (code, STATUS.get(code)) != (reply.get("code"), reply.get("status")):
        return unreadable(STATUS.get(code, 500), ids, reply)
    return Reply(STATUS[code], ids, {}, code, detail, reply.get("retry_after_ms"))


def _pack_array(array: np.ndarray) -> dict[str, Any]:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def _unpack_array(value: dict[str, Any]) -> Any:
    if "__ndarray_class__" not in value:
        return value
    return np.load(io.BytesIO(value["as_npy"]), allow_pickle=False)
