"""POST /act, in JSON, in msgpack, and in OpenVLA's form: JSON with json-numpy's arrays."""

from __future__ import annotations

import base64
import json
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import msgpack  # type: ignore[import-untyped, unused-ignore]
import numpy as np

from bench.connection import Response, connect, encode_request
from bench.protocols.wire import Ask, Connection, Reply, ServerAddress, WireProtocol, unreadable

PROBLEM = "application/problem+json"


class HttpProtocol(WireProtocol):
    """What all protocols over HTTP share: the request's id is in a header, too, and so are errors' retry times."""

    transport = "http"
    id_beside_body = True
    media_type = "application/json"

    async def connect(self, at: ServerAddress) -> Connection:
        return await connect(at.http)

    def is_action(self, raw: Response) -> bool:
        return raw.status == 200

    def wrap(self, ask: Ask, payload: bytes, headers: Mapping[str, str]) -> bytes:
        ids = {} if ask.request_id is None else {"X-Request-ID": ask.request_id}
        return encode_request("POST", self._path(ask), payload, {"Content-Type": self.media_type, **ids, **headers})

    def _path(self, ask: Ask) -> str:
        return "/act"


class _Act(HttpProtocol):
    def encode(self, ask: Ask) -> bytes:
        return self.wrap(ask, self._pack({"observation": self._array(ask.observation), **ask.options()}), {})

    def read(self, raw: Response) -> Reply:
        header = raw.headers.get("x-request-id")
        media_type = raw.headers.get("content-type")
        try:
            members = self._unpack(raw.body) if media_type == self.media_type else json.loads(raw.body)
            ids = frozenset((header, members.get("request_id")))
            if raw.status == 200 and media_type == self.media_type:
                return Reply(200, ids, members)
            if raw.status != 200 and media_type == PROBLEM:
                after = members.get("retry_after_ms")
                return Reply(raw.status, ids, {}, str(members["code"]), str(members.get("detail", "")), after)
        except (ValueError, KeyError, AttributeError):
            pass
        return unreadable(raw.status, frozenset((header,)), raw.body)

    @abstractmethod
    def _array(self, array: np.ndarray) -> Any: ...

    @abstractmethod
    def _pack(self, fields: dict[str, Any]) -> bytes: ...

    @abstractmethod
    def _unpack(self, body: bytes) -> dict[str, Any]: ...


class HttpJson(_Act):
    """Arrays are lists of numbers."""

    def _array(self, array: np.ndarray) -> Any:
        return array.tolist()

    def _pack(self, fields: dict[str, Any]) -> bytes:
        return json.dumps(fields).encode()

    def _unpack(self, body: bytes) -> dict[str, Any]:
        members: dict[str, Any] = json.loads(body)
        return members


class HttpMsgpack(_Act):
    """Arrays are openpi's."""

    media_type = "application/msgpack"

    def _array(self, array: np.ndarray) -> Any:
        return pack_array(array)

    def _pack(self, fields: dict[str, Any]) -> bytes:
        packed: bytes = msgpack.packb(fields)
        return packed

    def _unpack(self, body: bytes) -> dict[str, Any]:
        members: dict[str, Any] = msgpack.unpackb(body, object_hook=unpack_array)
        return members


class OpenVla(_Act):
    """Arrays are json-numpy's."""

    def _array(self, array: np.ndarray) -> Any:
        return {
            "__numpy__": base64.b64encode(array.tobytes()).decode(),
            "dtype": array.dtype.str,
            "shape": [*array.shape],
        }

    def _pack(self, fields: dict[str, Any]) -> bytes:
        return json.dumps(fields).encode()

    def _unpack(self, body: bytes) -> dict[str, Any]:
        def array(value: dict[str, Any]) -> Any:
            if "__numpy__" not in value:
                return value
            return np.frombuffer(base64.b64decode(value["__numpy__"]), value["dtype"]).reshape(value["shape"])

        members: dict[str, Any] = json.loads(body, object_hook=array)
        return members


def pack_array(array: np.ndarray) -> dict[bytes, Any]:
    """An array as openpi's msgpack has it."""
    return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": array.dtype.str, b"shape": [*array.shape]}


def unpack_array(value: dict[Any, Any]) -> Any:
    """msgpack's `object_hook` for such arrays."""
    if b"__ndarray__" not in value:
        return value
    return np.frombuffer(value[b"data"], value[b"dtype"]).reshape(value[b"shape"])
