"""The Open Inference Protocol's gRPC service: what comes, as the answerer takes it, and its replies."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import grpc

from service.errors import InternalError, ServiceError, UnknownModel, VersionGone
from service.grpc import infer
from service.grpc.messages import CONFIG_DATATYPES, MESSAGES, SERVICE
from service.lifecycle import Lifecycle
from service.models import Catalog
from service.protocol import (
    REQUEST_ID,
    ActRequest,
    Answer,
    Answers,
    ProtocolName,
    codec,
    new_request_id,
    open_inference,
    parse_act,
    parse_request_id,
)

log = logging.getLogger(__name__)

STOP_SECONDS = 5.0  # for writing replies, after the scheduler's own drain

_STATUS = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""gRPC's codes for the statuses of `ServiceError`; any other is INTERNAL."""


@dataclass(frozen=True)
class Refusal:
    """An error as gRPC has it."""

    code: grpc.StatusCode
    details: str
    trailing: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, error: ServiceError, request_id: str) -> Refusal:
        """`error`, with its HTTP headers and the request's id as trailing metadata."""
        headers = ((name.lower(), value) for name, value in error.headers().items())
        code = _STATUS.get(error.status, grpc.StatusCode.INTERNAL)
        return cls(code, open_inference.error_text(error), (*headers, ("x-request-id", request_id)))


class GrpcEndpoint:
    """Serves the protocol on a port of its own.

    Args:
        answers: `service.answering.Answerer`.
        lifecycle: says whether the server is alive and ready.
        catalog: the models.
        host, port: to bind; port 0 is a free one.
        max_body_bytes: longest message.
        tls: files of the certificate and of its key, PEM; None: without TLS.

    Raises:
        OSError: the address can't be bound.
    """

    def __init__(
        self,
        answers: Answers,
        *,
        lifecycle: Lifecycle,
        catalog: Catalog,
        host: str,
        port: int,
        max_body_bytes: int,
        tls: tuple[Path, Path] | None,
    ) -> None:
        self._answers = answers
        self._lifecycle = lifecycle
        self._catalog = catalog
        self._host = f"[{host}]" if ":" in host else host
        self.port = port
        self._max_body_bytes = max_body_bytes
        self._tls = tls
        self._server: Any = None
        # gRPC binds on the event loop, once there is one: too late for a message of one line.
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            socket.create_server((host, port), family=family).close()
        except OSError as error:
            raise OSError(f"grpc_port: can't listen on {host}:{port}: {error.strerror or error}") from None

    async def start(self) -> None:
        """Begin to serve. On the event loop that will serve."""
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", self._max_body_bytes)]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, self._handlers()),))
        address = f"{self._host}:{self.port}"
        if self._tls is None:
            self.port = self._server.add_insecure_port(address)
        else:
            certificate, key = (path.read_bytes() for path in self._tls)
            self.port = self._server.add_secure_port(address, grpc.ssl_server_credentials([(key, certificate)]))
        await self._server.start()
        log.info("listening on grpc%s://%s:%d", "" if self._tls is None else "s", self._host, self.port)

    async def stop(self) -> None:
        """Write the replies that are due, and close. After `Runtime.stop`, which ends what requests wait for."""
        await self._server.stop(STOP_SECONDS)

    def _handlers(self) -> dict[str, Any]:
        told: dict[str, Callable[[Any], dict[str, Any]]] = {
            "ServerLive": self._server_live,
            "ServerReady": lambda request: {"ready": self._lifecycle.ready},
            "ServerMetadata": lambda request: {"name": "sorl-serve", "version": version("sorl-serve")},
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": lambda request: {"config": _config(open_inference.model_config(self._describe(request)))},
            "RepositoryIndex": self._index,
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                partial(_tell, tell, MESSAGES[f"{name}Response"]),
                request_deserializer=MESSAGES[f"{name}Request"].FromString,
                response_serializer=MESSAGES[f"{name}Response"].SerializeToString,
            )
            for name, tell in told.items()
        }
        # Bytes both ways: a message that can't be read is a refused request like any other.
        handlers["ModelInfer"] = grpc.unary_unary_rpc_method_handler(self._infer)
        return handlers

    def _server_live(self, request: Any) -> dict[str, Any]:
        self._lifecycle.check_alive()
        return {"live": True}

    def _model_ready(self, request: Any) -> dict[str, Any]:
        try:
            self._catalog.find(request.name, request.version or None)
        except (UnknownModel, VersionGone):
            return {"ready": False}
        return {"ready": self._lifecycle.ready}

    def _model_metadata(self, request: Any) -> dict[str, Any]:
        return open_inference.model_metadata(self._describe(request), self._catalog.versions(request.name))

    def _index(self, request: Any) -> dict[str, Any]:
        models = ((model.name, model.version) for model in self._catalog)
        return {"models": open_inference.repository_index(models, self._lifecycle.ready)}

    def _describe(self, request: Any) -> dict[str, Any]:
        return self._catalog.describe(request.name, request.version or None)

    async def _infer(self, body: bytes, context: Any) -> bytes:
        call = _InferCall(body, dict(context.invocation_metadata() or ()))
        answering = asyncio.ensure_future(self._answers.reply(call))
        try:
            reply = await asyncio.shield(answering)
        except asyncio.CancelledError:  # the client hung up, or its own time ran out
            call.gone.set()
            await answering
            raise
        return reply if isinstance(reply, bytes) else await _abort(context, reply)


class _InferCall:
    """One inference request, as the answerer takes it."""

    __slots__ = ("_body", "_given_id", "_metadata", "_request", "gone", "protocol", "request_id")

    def __init__(self, body: bytes, metadata: Mapping[str, Any]) -> None:
        self.protocol: ProtocolName = "open-inference-grpc"
        self._body = body
        self._metadata = metadata
        given = metadata.get("x-request-id")
        self.request_id = given if isinstance(given, str) and REQUEST_ID.fullmatch(given) else new_request_id()
        self.gone = asyncio.Event()
        self._given_id: str | None = None
        self._request: open_inference.InferRequest | None = None

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        return {key.encode(): value.encode() for key, value in self._metadata.items() if isinstance(value, str)}

    @property
    def credential(self) -> str | None:
        return self._metadata.get("authorization")

    async def read(self) -> ActRequest:
        message = infer.decode(self._body)
        self._given_id = parse_request_id(message.id or None)
        if self._given_id is not None:
            self.request_id = self._given_id  # before the rest is read, so that its errors carry it
        self._request = infer.parse_infer(message)
        fields = self._request.act_fields(message.model_name, message.model_version or None, self.request_id)
        return parse_act(fields, codec.MSGPACK)  # integers are exact here, as in msgpack

    async def hung_up(self) -> None:
        await self.gone.wait()

    def answered(self, answer: Answer, timing: Callable[[], dict[str, float]]) -> bytes | Refusal:
        assert self._request is not None
        return infer.encode_reply(answer, self._request.outputs, self._given_id, timing)

    def refused(self, error: ServiceError) -> bytes | Refusal:
        if self._request is not None:
            open_inference.name_timeout(error, self._request.parameters)
        return Refusal.of(error, self.request_id)


async def _tell(tell: Callable[[Any], dict[str, Any]], reply: Any, request: Any, context: Any) -> Any:
    """The reply of a call that computes nothing."""
    try:
        return reply(**tell(request))
    except ServiceError as error:
        refusal = Refusal.of(error, new_request_id())
    except Exception as error:
        log.error("a gRPC call failed", exc_info=error)
        refusal = Refusal.of(InternalError(), new_request_id())
    await _abort(context, refusal)


async def _abort(context: Any, refusal: Refusal) -> NoReturn:
    await context.abort(refusal.code, refusal.details, refusal.trailing)
    raise AssertionError("abort raises")


def _config(config: dict[str, Any]) -> dict[str, Any]:
    """`model_config` in the types of its message."""

    def tensors(listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
        numbers = {f"TYPE_{name}": number for number, name in enumerate(CONFIG_DATATYPES)}
        return [{**tensor, "data_type": numbers[tensor["data_type"]]} for tensor in listed]

    parameters = [{"key": name, "value": value} for name, value in config["parameters"].items()]
    return {**config, "input": tensors(config["input"]), "output": tensors(config["output"]), "parameters": parameters}
