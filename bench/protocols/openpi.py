"""openpi's protocol: msgpack frames over a websocket. Errors are text."""

from __future__ import annotations

import msgpack  # type: ignore[import-untyped, unused-ignore]

from bench.protocols.http import pack_array, unpack_array
from bench.protocols.websocket import Frame, WebsocketConnection
from bench.protocols.wire import Ask, Connection, Reply, ServerAddress, WireProtocol, unreadable, worded_error


class Openpi(WireProtocol):
    """An error's reply has no id: it is matched by its connection."""

    transport = "websocket"

    async def connect(self, at: ServerAddress) -> Connection:
        if at.websocket is None:
            raise ConnectionRefusedError("the server has no websockets")
        return await WebsocketConnection.to(at.websocket)

    def encode(self, ask: Ask) -> bytes:
        packed: bytes = msgpack.packb({"observation": pack_array(ask.observation), **ask.options()})
        return packed

    def read(self, raw: Frame) -> Reply:
        if isinstance(raw, str):
            return worded_error(raw, frozenset())
        try:
            members = msgpack.unpackb(raw, object_hook=unpack_array)
            (action,) = members.pop("actions")  # (horizon, action_dim), and the horizon is 1
            return Reply(200, frozenset((members.get("request_id"),)), {"action": action, **members})
        except (ValueError, KeyError, TypeError, AttributeError):
            return unreadable(200, frozenset(), raw)

    def is_action(self, raw: Frame) -> bool:
        return isinstance(raw, bytes)
