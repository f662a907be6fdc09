"""A ZeroMQ socket on the event loop, as a load generator holds it. It needs pyzmq (extra `zmq`)."""

from __future__ import annotations

import asyncio

import zmq
from zmq.utils.monitor import parse_monitor_message

from bench.connection import RequestConnection

LINGER_MS = 1000
"""A request that was abandoned whole is sent within so long."""


class ZmqConnection(RequestConnection[bytes]):
    """A socket that sends as REQ sockets do, one request at a time, and connects once: ZeroMQ itself would connect
    again without a word, and the request in flight would never be answered. Made by `to`."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.set(zmq.RECONNECT_IVL, -1)
        self._monitor: zmq.Socket[bytes] = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
        )
        self._loop.add_reader(self._monitor, self._changed)
        self._loop.add_reader(self._socket, self._read)
        self._socket.connect(address)
        self._changed()  # descriptors tell of nothing new until what is there was asked for

    @classmethod
    async def to(cls, address: str) -> ZmqConnection:
        """Connect to `address`. Raises OSError."""
        connection = cls(address)
        try:
            await connection._ready
        except BaseException:
            connection.close()
            raise
        return connection

    async def abandon(self, request: bytes, whole: bool) -> None:
        """ZeroMQ sends messages whole: without `whole` it is not sent, unless the socket was faster than its end."""
        if self._open:
            self._write(request)
        self._close(LINGER_MS if whole else 0)

    def close(self) -> None:
        self._close(0)

    def _close(self, linger: int) -> None:
        if not self._socket.closed:
            self._open = False
            self._loop.remove_reader(self._socket)
            self._loop.remove_reader(self._monitor)
            self._socket.disable_monitor()
            self._monitor.close(0)
            self._socket.close(linger)

    def _write(self, request: bytes) -> None:
        self._socket.send_multipart([b"", request], zmq.NOBLOCK)
        if self._readable():  # sending may have cleared the descriptor
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        while not self._socket.closed and self._readable():
            *_, answer = self._socket.recv_multipart(zmq.NOBLOCK)
            self._received(answer)

    def _readable(self) -> bool:
        return bool(int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN)

    def _changed(self) -> None:
        self._read()  # the last answer comes before the end
        while not self._socket.closed and int(self._monitor.get(zmq.EVENTS)) & zmq.POLLIN:
            event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))["event"]
            if event != zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._lost()
            elif not self._ready.done():
                self._ready.set_result(None)

    def _lost(self) -> None:
        self._open = False
        error = ConnectionResetError("closed by the server")
        if not self._ready.done():
            self._ready.set_exception(ConnectionRefusedError("no server"))
        self._fail(error)
        self._close(0)
