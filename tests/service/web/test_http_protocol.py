"""Head and body of a reply leave together, in order, and nothing is left behind."""

from __future__ import annotations

import asyncio

from service.web.http_protocol import JoinedWrites


class FakeTransport:
    def __init__(self) -> None:
        self.done: list[object] = []

    def write(self, data: bytes) -> None:
        self.done.append(data)

    def close(self) -> None:
        self.done.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.done


def joined(transport: FakeTransport) -> JoinedWrites:
    return JoinedWrites(transport, asyncio.get_running_loop())  # type: ignore[arg-type]  # all of one that is used


def test_one_turns_writes_are_one() -> None:
    async def run() -> list[object]:
        transport = FakeTransport()
        writes = joined(transport)
        writes.write(b"head ")
        writes.write(b"body")
        assert transport.done == []
        await asyncio.sleep(0)
        writes.write(b"next")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return transport.done

    assert asyncio.run(run()) == [b"head body", b"next"]


def test_what_was_written_leaves_before_the_connection_closes() -> None:
    async def run() -> list[object]:
        transport = FakeTransport()
        writes = joined(transport)
        writes.write(b"last ")
        writes.write(b"words")
        assert not writes.is_closing()
        writes.close()
        assert writes.is_closing()
        await asyncio.sleep(0)
        return transport.done

    assert asyncio.run(run()) == [b"last words", "closed"]
