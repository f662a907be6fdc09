"""The Open Inference Protocol over gRPC: its messages as protobuf has them, and its connections."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest

from bench.protocols import PROTOCOLS, Ask
from bench.protocols.grpc import GrpcConnection, GrpcError
from bench.protocols.open_inference_grpc import CODES, MODEL_INFER, parameter
from bench.protocols.protobuf import field, fields, varint
from bench.protocols.wire import STATUS
from service.grpc.messages import MESSAGES
from tests.bench.planted_protocols import Said, grpc_message, planted_grpc

WAIT = 30
ID = "drill-0000007"
ASK = Ask("drill", np.array([0.5, -1.5, 3.0], np.float32), 32, 4, 7, 50.5, ID)
OK = Said(
    {
        "action": [0.5] * 5,
        "num_candidates": 300,
        "num_steps": 2,
        "degraded": "load",
        "model_version": "v",
        "engine": "e",
        "request_id": ID,
    }
)
OIP = PROTOCOLS["open-inference-grpc"]


# Messages


def test_a_request_is_what_protobuf_reads() -> None:
    message = MESSAGES["ModelInferRequest"].FromString(OIP.encode(ASK))
    assert (message.model_name, message.id) == ("drill", ID)
    found = {entry.key: [value for _, value in entry.value.ListFields()] for entry in message.parameters}
    assert found == {"num_candidates": [32], "num_steps": [4], "seed": [7], "timeout": [50_500]}  # in microseconds
    (tensor,) = message.inputs
    assert (tensor.name, tensor.datatype, [*tensor.shape]) == ("observation", "FP32", [1, 3])
    assert not tensor.HasField("contents")
    assert [*message.raw_input_contents] == [ASK.observation.tobytes()]
    assert not message.outputs
    assert not MESSAGES["ModelInferRequest"].FromString(OIP.encode(replace(ASK, request_id=None))).HasField("id")


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**53, -1, -(2**63), True, False, 0.25, -1e300, "", "né"])
def test_parameters_are_what_protobuf_reads(value: Any) -> None:
    entry = MESSAGES["Parameters"].FromString(parameter("name", value))
    ((kind, read),) = entry.value.ListFields()
    assert (entry.key, read) == ("name", value)
    assert type(read) is type(value)
    assert kind.name.split("_")[0] == {bool: "bool", int: "int64", float: "double", str: "string"}[type(value)]


def test_a_reply_is_read_and_only_a_whole_one() -> None:
    raw = grpc_message(OK)
    reply = OIP.read(raw)
    assert (reply.status, reply.ids) == (200, {ID})
    np.testing.assert_array_equal(reply.fields["action"], np.full(5, 0.5, np.float32))
    rest = {name: value for name, value in reply.fields.items() if name != "action"}
    assert rest == {**{name: OK.fields[name] for name in rest if name != "queue_ms"}, "queue_ms": 0.25}
    assert {*OK.fields} <= {*reply.fields}
    assert OIP.is_action(raw)
    for wrong in (raw[:-1], raw + b"\x00", raw + field(6, b""), raw + field(2, "w"), raw + field(9, 1)):
        assert "action" not in OIP.read(wrong).fields


@pytest.mark.parametrize(
    "message", [b"\x08", b"\x08\x80", b"\xff" * 11, b"\x09\x00", b"\x0a\x02a", b"\x0b", b"\x0d...."]
)
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"field 1|a number has no end"):
        [*fields(message)]


def test_fields_are_read_as_they_were_written() -> None:
    written: list[tuple[int, int | float | bytes]] = [(1, 2**64 - 1), (2, 0.5), (100_000, b"x" * 300), (1, 0)]
    assert [*fields(b"".join(field(*entry) for entry in written))] == written
    assert varint(-1) == varint(2**64 - 1)
    assert field(2, 0.5) == b"\x11" + struct.pack("<d", 0.5)


@pytest.mark.parametrize("code", STATUS)
def test_an_error_has_the_code_of_its_status(code: str) -> None:
    expected = CODES.get(STATUS[code], "INTERNAL")
    for other in grpc.StatusCode:
        metadata = {"x-request-id": ID, "retry-after": "0.5"}
        error = GrpcError(other.name, f"{code}: said", metadata)
        reply = OIP.read(error)
        assert reply.ids == {ID}
        assert not OIP.is_action(error)
        if other.name == expected:
            assert (reply.status, reply.code, reply.detail, reply.retry_after_ms) == (STATUS[code], code, "said", 500.0)
        else:
            assert reply.code == ""


# Connections


def test_a_server_that_ends_ends_its_calls() -> None:
    arrived = asyncio.Event()

    async def infer(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for message in messages:
            if message == b"first":
                yield b"answer"
            else:
                arrived.set()
                await asyncio.Event().wait()

    async def run() -> bool:
        async with planted_grpc(infer) as address:
            connection = await GrpcConnection.to(address, MODEL_INFER)
            assert await connection.send(b"first") == b"answer"
            waiting = connection.send(b"another")
            await arrived.wait()
            assert not connection.usable
        with pytest.raises(ConnectionResetError):
            await waiting
        with pytest.raises(ConnectionResetError):
            await connection.send(b"first")
        connection.close()
        return connection.usable

    assert not asyncio.run(asyncio.wait_for(run(), WAIT))


@pytest.mark.parametrize("whole", [True, False])
def test_a_client_hangs_up(whole: bool) -> None:
    """After the message, or after a call without one."""
    seen: list[object] = []
    over = asyncio.Event()

    async def infer(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        seen.append("call")
        try:
            async for message in messages:
                seen.append(message)
                await asyncio.Event().wait()
                yield b""
        finally:
            over.set()

    async def run() -> None:
        async with planted_grpc(infer) as address:
            connection = await GrpcConnection.to(address, MODEL_INFER)
            await connection.abandon(b"message", whole)
            assert not connection.usable
            await over.wait()

    asyncio.run(asyncio.wait_for(run(), WAIT))
    # A server that hears of the end before its handler has read the message drops it.
    assert seen in ([["call"], ["call", b"message"]] if whole else [["call"]])


def test_answers_that_are_no_action() -> None:
    """A call that ends without a message, and an error of the server that has nothing beside it."""

    async def infer(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for message in messages:
            if message == b"error":
                await context.abort(grpc.StatusCode.INTERNAL, "a fault")
        return
        yield b""

    async def run() -> tuple[Any, Any, bool]:
        async with planted_grpc(infer) as address:
            connection = await GrpcConnection.to(address, MODEL_INFER)
            found = await connection.send(b"nothing"), await connection.send(b"error"), connection.usable
            connection.close()
            return found

    nothing, error, usable = asyncio.run(asyncio.wait_for(run(), WAIT))
    assert usable
    assert error == GrpcError("INTERNAL", "a fault", {})
    for answer in (nothing, error):
        assert not OIP.is_action(answer)
        assert (OIP.read(answer).status, OIP.read(answer).code) == (500, "")


def test_closing_ends_the_call_in_flight() -> None:
    async def infer(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for _ in messages:
            await asyncio.Event().wait()
            yield b""

    async def run() -> None:
        async with planted_grpc(infer) as address:
            connection = await GrpcConnection.to(address, MODEL_INFER)
            waiting = connection.send(b"request")
            await asyncio.sleep(0)
            connection.close()
            connection.close()
            with pytest.raises(ConnectionResetError, match="by the client"):
                await waiting

    asyncio.run(asyncio.wait_for(run(), WAIT))


def test_clients_do_not_share_a_connection() -> None:
    async def infer(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for _ in messages:
            yield context.peer().encode()

    async def run() -> list[Any]:
        async with planted_grpc(infer) as address:
            connections = [await GrpcConnection.to(address, MODEL_INFER) for _ in range(3)]
            peers = [await connection.send(b"request") for connection in connections]
            for connection in connections:
                connection.close()
            return peers

    assert len({*asyncio.run(asyncio.wait_for(run(), WAIT))}) == 3
