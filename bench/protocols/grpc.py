"""A gRPC channel as a load generator holds it: one call at a time. It needs grpcio (extra `grpc`)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio

from bench.connection import RequestConnection

REQUEST_ID = "x-request-id"
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # else the channels of a process share one connection
    ("grpc.enable_retries", 0),
)
_WITHOUT_ANSWER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""What gRPC itself makes of a lost connection. A server's own error has the request's id beside it."""


@dataclass(frozen=True)
class GrpcError:
    """What a server answered in place of a message; `metadata` is the trailing one."""

    code: str
    details: str
    metadata: Mapping[str, Any]


class GrpcConnection(RequestConnection[bytes | GrpcError]):
    """A channel of its own, and one of its methods with bytes both ways. Made by `to`.

    `surplus` stays 0: a unary call has one answer. With a second one gRPC never ends the call.
    """

    def __init__(self, address: str, method: str) -> None:
        super().__init__()
        self._channel = grpc.aio.insecure_channel(urlsplit(address).netloc, _OPTIONS)
        self._method = method
        self._call = self._channel.unary_unary(method)
        self._asking: asyncio.Task[None] | None = None

    @classmethod
    async def to(cls, address: str, method: str) -> GrpcConnection:
        """Connect to `address`, grpc://HOST:PORT. `method` is a path, /SERVICE/METHOD. Raises OSError."""
        connection = cls(address, method)
        try:
            await connection._connected()
        except BaseException:
            connection.close()
            raise
        return connection

    async def abandon(self, request: bytes, whole: bool) -> None:
        """gRPC sends messages whole: without `whole`, the server sees a call whose message never comes."""
        call = self._channel.stream_unary(self._method)()  # the same bytes, but it tells when they were sent
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the server has ended the call
            if whole:
                await call.write(request)
                await call.done_writing()
            else:
                await call.wait_for_connection()
        self.close()

    def close(self) -> None:
        self._open = False
        # Without a grace period it waits for nothing: one step does it, even where the event loop ends next.
        with suppress(StopIteration):
            self._channel.close().send(None)

    def _write(self, request: bytes) -> None:
        self._asking = asyncio.ensure_future(self._ask(request))

    async def _ask(self, request: bytes) -> None:
        answer: bytes | GrpcError
        try:
            answer = await self._call(request) or GrpcError("OK", "an empty message, or none", {})
        except grpc.aio.AioRpcError as error:
            answer = GrpcError(error.code().name, error.details() or "", dict(error.trailing_metadata() or ()))
            if error.code() in _WITHOUT_ANSWER and REQUEST_ID not in answer.metadata:
                self._open = False
                self._fail(ConnectionResetError(answer.details))
                return
        except asyncio.CancelledError:
            self._fail(ConnectionResetError("closed by the client"))
            raise
        self._received(answer)

    async def _connected(self) -> None:
        """Return when it is connected. gRPC itself would try again and again."""
        state = self._channel.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                raise ConnectionRefusedError("no server")
            await self._channel.wait_for_state_change(state)
            state = self._channel.get_state(try_to_connect=True)
