"""A scripted server that speaks every protocol. It encodes by itself, so that readers are held against other code."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import msgpack
import numpy as np
import zmq
import zmq.asyncio
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from bench.protocols import ProtocolName, ServerAddress
from service.grpc.messages import MESSAGES, SERVICE
from tests.bench.planted import Request, planted_server

METADATA = msgpack.packb({"model": "planted"})


@dataclass(frozen=True)
class Said:
    """A reply, in no protocol yet: the members of POST /act's, or of a problem if the status is not 200."""

    fields: Mapping[str, Any]
    status: int = 200


Answering = Callable[[str | None], Sequence[Said]]
"""What is said to the request of this id; None: it has none. Nothing closes the connection, except ZeroMQ's; over gRPC
it ends the call as a lost connection does."""


@asynccontextmanager
async def planted_protocols(
    answering: Answering, protocol_of: Callable[[str], ProtocolName]
) -> AsyncIterator[ServerAddress]:
    """Context manager: runs the server. `protocol_of` says in which protocol a request came over HTTP."""

    async def over_http(request: Request) -> bytes:
        request_id = request.headers["x-request-id"]
        return b"".join(http_reply(said, protocol_of(request_id)) for said in answering(request_id))

    async def session(websocket: ServerConnection) -> None:
        try:
            await websocket.send(METADATA)
            async for frame in websocket:
                assert isinstance(frame, bytes)
                said = answering(_id(frame))
                if not said:
                    return
                for reply in said:
                    await websocket.send(openpi_frame(reply))
        except ConnectionClosed:
            pass  # the client has hung up

    async def route(router: zmq.asyncio.Socket) -> None:
        while True:
            peer, empty, message = await router.recv_multipart()
            for reply in answering(_id(message)):
                await router.send_multipart([peer, empty, groot_message(reply)])

    async def infer(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for message in messages:  # one, or none if the client hangs up before
            said = answering(_id(message))
            if not said:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "planted")
            for reply in said:
                if reply.status != 200:
                    await context.abort(*grpc_error(reply))
                yield grpc_message(reply)

    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(planted_server(over_http))
        websockets = await stack.enter_async_context(serve(session, "127.0.0.1", 0, compression=None))
        port = next(iter(websockets.sockets)).getsockname()[1]
        grpc_address = await stack.enter_async_context(planted_grpc(infer))
        with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as router:
            zmq_port = router.bind_to_random_port("tcp://127.0.0.1")
            routing = asyncio.create_task(route(router))
            try:
                websocket, zeromq = f"ws://127.0.0.1:{port}/openpi", f"tcp://127.0.0.1:{zmq_port}"
                yield ServerAddress(http, websocket, zeromq, grpc_address)
            finally:
                routing.cancel()
                await asyncio.gather(routing, return_exceptions=True)


@asynccontextmanager
async def planted_grpc(infer: Callable[[AsyncIterator[bytes], Any], AsyncIterator[bytes]]) -> AsyncIterator[str]:
    """Context manager: runs a gRPC server of one method, and yields its address."""
    handlers = {"ModelInfer": grpc.stream_stream_rpc_method_handler(infer)}  # to the client it is a unary call
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        await server.stop(None)


def _id(payload: bytes) -> str | None:
    found = re.search(rb"drill-\d{7}", payload)
    return found and found[0].decode()


def _worded(said: Said) -> str:
    return f"{said.fields['code']}: planted"


def _float32(said: Said) -> np.ndarray:
    return np.array(said.fields["action"], "<f4")


def http_reply(said: Said, protocol: ProtocolName) -> bytes:
    """A whole response."""
    fields = dict(said.fields)
    headers: dict[str, Any] = {"Content-Type": "application/json", "X-Request-ID": fields["request_id"]}
    if protocol.startswith("open-inference"):
        length, body = _open_inference(said, binary=protocol == "open-inference-binary")
        if length < len(body):
            headers |= {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": length}
    elif said.status != 200:
        headers["Content-Type"] = "application/problem+json"
        body = json.dumps({"status": said.status, **fields}).encode()
    elif protocol == "http-msgpack":
        headers["Content-Type"] = "application/msgpack"
        body = msgpack.packb({**fields, "action": _openpi_array(_float32(said))})
    else:
        if protocol == "openvla":
            data = base64.b64encode(_float32(said).tobytes()).decode()
            fields["action"] = {"__numpy__": data, "dtype": "<f4", "shape": [5]}
        body = json.dumps(fields).encode()
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**headers, "Content-Length": len(body)}.items())
    return f"HTTP/1.1 {said.status} Planted\r\n{lines}\r\n".encode() + body


def _openpi_array(array: np.ndarray) -> dict[bytes, Any]:
    return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": array.dtype.str, b"shape": [*array.shape]}


def _open_inference(said: Said, binary: bool) -> tuple[int, bytes]:
    """Length of the JSON, and the body. An output that nobody reads stands between the others."""
    if said.status != 200:
        body = json.dumps({"error": _worded(said)}).encode()
        return len(body), body
    fields, outputs, tail = said.fields, [], b""
    row = np.array([fields["num_candidates"]], "<i4"), np.array([0.5], "<f4"), np.array([fields["num_steps"]], "<i4")
    names = ("action", "num_candidates", "q", "num_steps")
    for name, values in zip(names, (_float32(said)[None], *row), strict=True):
        datatype = "INT32" if values.dtype.kind == "i" else "FP32"
        output = {"name": name, "datatype": datatype, "shape": [*values.shape]}
        if binary:
            output["parameters"] = {"binary_data_size": values.nbytes}
            tail += values.tobytes()
        else:
            output["data"] = values.ravel().tolist()
        outputs.append(output)
    parameters = {name: fields[name] for name in ("request_id", "engine", "degraded")}
    head = {"model_version": fields["model_version"], "id": fields["request_id"], "outputs": outputs}
    encoded = json.dumps({**head, "parameters": parameters}).encode()
    return len(encoded), encoded + tail


def grpc_message(said: Said) -> bytes:
    """A ModelInferResponse, encoded by protobuf. An output that nobody reads stands between the others."""
    fields = said.fields
    message = MESSAGES["ModelInferResponse"](model_version=fields["model_version"], id=fields["request_id"])
    for name in ("request_id", "engine", "degraded"):
        kind = "bool_param" if isinstance(fields[name], bool) else "string_param"
        message.parameters.add(key=name, value={kind: fields[name]})
    message.parameters.add(key="queue_ms", value={"double_param": 0.25})
    row = np.array([fields["num_candidates"]], "<i4"), np.array([0.5], "<f4"), np.array([fields["num_steps"]], "<i4")
    names = ("action", "num_candidates", "q", "num_steps")
    for name, values in zip(names, (_float32(said)[None], *row), strict=True):
        datatype = "INT32" if values.dtype.kind == "i" else "FP32"
        message.outputs.add(name=name, datatype=datatype, shape=values.shape)
        message.raw_output_contents.append(values.tobytes())
    encoded: bytes = message.SerializeToString()
    return encoded


def grpc_error(said: Said) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """Code, details and trailing metadata."""
    codes = {422: "INVALID_ARGUMENT", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
    metadata = [("x-request-id", said.fields["request_id"])]
    if "retry_after_ms" in said.fields:
        metadata.append(("retry-after", str(said.fields["retry_after_ms"] / 1e3)))
    return grpc.StatusCode[codes[said.status]], _worded(said), tuple(metadata)


def openpi_frame(said: Said) -> bytes | str:
    if said.status != 200:
        return _worded(said)
    fields = {name: value for name, value in said.fields.items() if name != "action"}
    packed: bytes = msgpack.packb({"actions": _openpi_array(_float32(said)[None]), **fields})
    return packed


def groot_message(said: Said) -> bytes:
    packed: bytes
    if said.status != 200:
        packed = msgpack.packb({"error": _worded(said), "status": said.status, **said.fields})
        return packed
    file = io.BytesIO()
    np.save(file, _float32(said)[None, None])
    info = {name: value for name, value in said.fields.items() if name != "action"}
    packed = msgpack.packb([{"action": {"__ndarray_class__": True, "as_npy": file.getvalue()}}, info])
    return packed
