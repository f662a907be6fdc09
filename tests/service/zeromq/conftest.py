"""GR00T's endpoint in process, and a robot that speaks to it as GR00T's client does."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq
import zmq.asyncio

WAIT = 30


def encode(value: Any) -> bytes:
    """Written from GR00T's description, not with the server's code."""

    def array(value: Any) -> dict[str, Any]:
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        return {"__ndarray_class__": True, "as_npy": file.getvalue()}

    packed: bytes = msgpack.packb(value, default=array)
    return packed


def decode(frame: bytes) -> Any:
    def array(value: dict[str, Any]) -> Any:
        if "__ndarray_class__" in value:
            return np.load(io.BytesIO(value["as_npy"]), allow_pickle=False)
        return value

    return msgpack.unpackb(frame, object_hook=array)


class Robot:
    """One client socket."""

    def __init__(self, socket: zmq.asyncio.Socket) -> None:
        self.socket = socket

    async def exchange(self, *frames: bytes) -> Any:
        await self.socket.send_multipart(frames)
        return decode(await self.socket.recv())

    async def call(self, endpoint: str, data: Any = None, **members: Any) -> Any:
        return await self.exchange(encode({"endpoint": endpoint, "data": data, **members}))

    async def act(self, observation: Any, **options: Any) -> Any:
        return await self.call("get_action", {"observation": observation, "options": options or None})


Connect = Callable[..., AbstractAsyncContextManager[Robot]]


@pytest.fixture
def connect() -> Connect:
    """`async with connect(app) as robot`: a REQ socket, or `kind`, that waits `WAIT` seconds for replies."""

    @asynccontextmanager
    async def run(app: Any, kind: int = zmq.REQ) -> AsyncIterator[Robot]:
        with zmq.asyncio.Context() as context, context.socket(kind) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVTIMEO, WAIT * 1000)
            socket.connect(app.state.groot.address)
            yield Robot(socket)

    return run
