"""`DelayedLink` on real sockets: what comes out, when, and that nothing is left of it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from sorl_client import Client, ConnectionFailed
from sorl_client.delayed_link import DelayedLink


@pytest.fixture
def echo() -> Iterator[str]:
    """The address of a server that sends back what it gets, and ends when its client does."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(65_536):
                    connection.sendall(data)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def connect(link: DelayedLink) -> socket.socket:
    parts = urlsplit(link.url)
    connection = socket.create_connection((parts.hostname, parts.port))
    connection.settimeout(30)
    return connection


def receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := connection.recv(65_536)):
        data += piece
    return data


def test_bytes_come_whole_in_order_and_a_round_trip_later(echo: str) -> None:
    data = bytes(range(256)) * 4096
    with DelayedLink(echo, 120.0) as link, connect(link) as connection:
        connection.sendall(b"x")
        assert receive(connection, 1) == b"x"  # the connection to the server is there
        began = time.monotonic()
        connection.sendall(b"y")
        assert receive(connection, 1) == b"y"
        assert 0.12 <= time.monotonic() - began < 5.0
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        assert receive(connection, len(data)) == data
        sender.join()
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""  # the end is passed on too, both ways


def test_it_ends_with_connections_open(echo: str, caplog: pytest.LogCaptureFixture) -> None:
    with DelayedLink(echo, 1.0) as link:
        connection = connect(link)
        connection.sendall(b"x")
        assert receive(connection, 1) == b"x"
    assert connection.recv(1) == b""
    connection.close()
    assert caplog.records == []


def test_a_server_that_is_not_there(fake_server) -> None:
    server = fake_server()
    with DelayedLink(server.url, 1.0) as link, Client(link.url) as client:
        assert client.models()[0]["name"] == "stub"
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with DelayedLink(url, 1.0) as link, Client(link.url, timeout_s=1.0) as client, pytest.raises(ConnectionFailed):
        client.models()


@pytest.mark.parametrize("url", ["https://127.0.0.1:8000", "127.0.0.1:8000", "http://"])
def test_what_it_cannot_delay(url: str) -> None:
    with pytest.raises(ValueError, match="expected http://HOST:PORT to delay"):
        DelayedLink(url, 10.0)
