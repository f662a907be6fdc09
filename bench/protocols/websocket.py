"""A websocket as a load generator holds it: `websockets` frames and masks, and there are neither tasks nor queues."""

from __future__ import annotations

import asyncio

from websockets.client import ClientProtocol
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.uri import parse_uri

from bench.connection import StreamConnection, connect_stream

Frame = bytes | str


class WebsocketConnection(StreamConnection[Frame]):
    """An openpi session: the server's first frame is its metadata. Made by `to`."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._websocket = ClientProtocol(parse_uri(url), max_size=None)
        self._metadata: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._request: bytes | None = None
        self._frame_of_request = b""

    @classmethod
    async def to(cls, url: str) -> WebsocketConnection:
        """Connect to `url`, and wait for the metadata. Raises OSError, also if the server refuses the session."""
        connection = await connect_stream(lambda: cls(url), url)
        try:
            await connection._metadata
        except BaseException:
            connection.close()
            raise
        return connection

    def _encoded(self, request: bytes) -> bytes:
        """The frame. One that is sent again, the same object, is masked once: it is encoded once in every protocol."""
        if request is not self._request:
            self._websocket.send_binary(request)
            self._frame_of_request = b"".join(self._websocket.data_to_send())
            self._request = request
        return self._frame_of_request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._websocket.send_request(self._websocket.connect())
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._websocket.receive_data(data)
        for event in self._websocket.events_received():
            if not isinstance(event, WireFrame):
                continue  # the response to the upgrade
            if event.opcode is Opcode.BINARY and event.fin:
                self._frame(bytes(event.data))
            elif event.opcode is Opcode.TEXT and event.fin:
                self._frame(bytes(event.data).decode())
            elif event.opcode is Opcode.CLOSE:
                self._open = False  # the connection is lost in a moment; requests get an error then
        if self._websocket.handshake_exc is not None:
            self._fail(ConnectionRefusedError(str(self._websocket.handshake_exc)))
            self.close()
        self._flush()

    def _frame(self, frame: Frame) -> None:
        if self._metadata.done():
            self._received(frame)
        else:
            self._metadata.set_result(frame)

    def _fail(self, error: ConnectionError) -> None:
        if not self._metadata.done():
            self._metadata.set_exception(error)
        super()._fail(error)

    def _flush(self) -> None:
        """Send what the protocol has to say by itself: the upgrade, pongs, and its part of closing."""
        assert self._transport is not None
        for data in self._websocket.data_to_send():
            if data:
                self._transport.write(data)
            else:
                self._transport.close()
