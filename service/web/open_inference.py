"""The Open Inference Protocol's addresses under /v2: inference as an ASGI application, and what is known of models."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter
from starlette.types import Receive, Scope, Send

from service.errors import ServiceError
from service.lifecycle import Lifecycle
from service.models import Catalog
from service.protocol import (
    ACT_ERRORS,
    ActRequest,
    Answer,
    Answers,
    ProtocolName,
    codec,
    open_inference,
    parse_act,
    parse_request_id,
)
from service.web.cross_site import refuse_cross_site
from service.web.direct import DirectRoute
from service.web.exchange import Exchange, Reply, id_header

ROOT = "v2"
BINARY = "application/octet-stream"
_HEADER_LENGTH = open_inference.HEADER_LENGTH.lower().encode()
_MODEL = "/v2/models/{name}"
_VERSION = _MODEL + "/versions/{version}"
_UNREADY = {503: "not_ready: warming up, failed to, or draining"}


class _InferCall:
    """One inference request, as the answerer takes it."""

    __slots__ = (
        "_cors_origins", "_exchange", "_given_id", "_max_body_bytes", "_model", "_request", "_version", "protocol",
    )  # fmt: skip

    def __init__(
        self, exchange: Exchange, model: str, version: str | None, max_body_bytes: int, cors_origins: Collection[str]
    ) -> None:
        self.protocol: ProtocolName = "open-inference"
        self._exchange = exchange
        self._model = model
        self._version = version
        self._max_body_bytes = max_body_bytes
        self._cors_origins = cors_origins
        self._given_id: str | None = None
        self._request: open_inference.InferRequest | None = None

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        return self._exchange.headers

    @property
    def credential(self) -> str | None:
        return self._exchange.header(b"authorization")

    @property
    def request_id(self) -> str:
        return self._exchange.request_id

    async def read(self) -> ActRequest:
        exchange = self._exchange
        refuse_cross_site(exchange.headers, self._cors_origins)
        exchange.check_request_id()
        exchange.check_uncompressed()
        body = await exchange.read_body(self._max_body_bytes)
        members, binary_data = open_inference.decode(body, exchange.header(_HEADER_LENGTH))
        self._given_id = parse_request_id(members.get("id") or None)
        if self._given_id is not None:
            exchange.request_id = self._given_id  # before other members are read, so that their errors carry it
        self._request = open_inference.parse_infer(members, binary_data)
        return parse_act(self._request.act_fields(self._model, self._version, exchange.request_id), codec.JSON)

    async def hung_up(self) -> None:
        await self._exchange.hung_up()

    def answered(self, answer: Answer, timing: Callable[[], dict[str, float]]) -> Reply:
        assert self._request is not None
        body, length = open_inference.encode_reply(answer, self._request.outputs, self._given_id, timing)
        if length is None:
            return Reply(200, codec.JSON, body, (id_header(answer.request_id),))
        header = (_HEADER_LENGTH, b"%d" % length)
        return Reply(200, BINARY, body, (header, id_header(answer.request_id)))

    def refused(self, error: ServiceError) -> Reply:
        if self._request is not None:
            open_inference.name_timeout(error, self._request.parameters)
        return error_reply(error, self.request_id)


def error_reply(error: ServiceError, request_id: str) -> Reply:
    """The reply for `error`: {"error": "code: detail"}."""
    headers = [(name.encode("ascii"), value.encode("ascii")) for name, value in error.headers().items()]
    return Reply(error.status, codec.JSON, open_inference.encode_error(error), (*headers, id_header(request_id)))


def infer_routes(answers: Answers, max_body_bytes: int, cors_origins: Collection[str]) -> list[DirectRoute]:
    """POST .../infer, for the current version and for one that the address names.

    Args:
        answers: `service.answering.Answerer`.
        max_body_bytes: longest body.
        cors_origins: of other sites whose pages may ask from a browser.
    """

    async def infer(scope: Scope, receive: Receive, send: Send) -> None:
        address = scope["path_params"]
        exchange = Exchange(scope, receive)
        call = _InferCall(exchange, address["name"], address.get("version"), max_body_bytes, cors_origins)
        reply = await answers.reply(call)
        await reply.send(send)

    binary = {"schema": {"type": "string", "format": "binary", "description": "JSON, with tensors behind it."}}
    request = {codec.JSON: {"schema": open_inference.REQUEST_SCHEMA}, BINARY: binary}
    reply = {codec.JSON: {"schema": open_inference.REPLY_SCHEMA}, BINARY: binary}
    options: dict[str, Any] = {
        "summary": "The best of N candidate actions for an observation (Open Inference Protocol)",
        "responses": {
            200: {"description": "The outputs", "content": reply},
            **open_inference.error_responses({**ACT_ERRORS, 403: "cross_site"}),
        },
        "openapi_extra": {"requestBody": {"required": True, "content": request}},
    }

    async def current(name: str) -> None:
        """Tensors as JSON, or in binary behind it (`Inference-Header-Content-Length`)."""

    async def pinned(name: str, version: str) -> None:
        """Of one version."""

    return [
        DirectRoute(_MODEL + "/infer", infer, current, name="infer", **options),
        DirectRoute(_VERSION + "/infer", infer, pinned, name="infer_version", **options),
    ]


def _add_both(
    router: APIRouter,
    path: str,
    tell: Callable[[str, str | None], dict[str, Any]],
    summary: str,
    meanings: Mapping[int, str],
) -> None:
    """Two routes for what `tell` says of a model by name and version: for its current version, and for a named one."""

    async def current(name: str) -> dict[str, Any]:
        return tell(name, None)

    async def named(name: str, version: str) -> dict[str, Any]:
        return tell(name, version)

    unknown = {404: "unknown_model", **meanings}
    gone = {409: "version_gone", **unknown}
    for address, endpoint, what, errors in (
        (_MODEL, current, "model", unknown),
        (_VERSION, named, "version", gone),
    ):
        responses = open_inference.error_responses(errors)
        router.get(address + path, summary=summary.format(what), responses=responses)(endpoint)


def open_inference_routes(lifecycle: Lifecycle, catalog: Catalog) -> APIRouter:
    """Everything under /v2 but inference. No key is needed."""
    router = APIRouter()

    @router.get("/v2", summary="Name and version of the server (Open Inference Protocol)")
    async def server() -> dict[str, Any]:
        return {"name": "sorl-serve", "version": version("sorl-serve"), "extensions": ["binary_tensor_data"]}

    @router.get(
        "/v2/health/live",
        summary="Is the process alive? (Open Inference Protocol)",
        responses=open_inference.error_responses({500: "internal_error: only a restart helps"}),
    )
    async def live() -> dict[str, bool]:
        lifecycle.check_alive()
        return {"live": True}

    @router.get(
        "/v2/health/ready",
        summary="May requests be sent here? (Open Inference Protocol)",
        responses=open_inference.error_responses(_UNREADY),
    )
    async def ready() -> dict[str, bool]:
        lifecycle.check_ready()
        return {"ready": True}

    def metadata(name: str, version: str | None) -> dict[str, Any]:
        return open_inference.model_metadata(catalog.describe(name, version), catalog.versions(name))

    def config(name: str, version: str | None) -> dict[str, Any]:
        return open_inference.model_config(catalog.describe(name, version))

    def readiness(name: str, version: str | None) -> dict[str, Any]:
        catalog.find(name, version)
        lifecycle.check_ready()
        return {"name": name, "ready": True}

    told: list[tuple[str, Callable[[str, str | None], dict[str, Any]], str, Mapping[int, str]]] = [
        ("", metadata, "Inputs and outputs of a {} (Open Inference Protocol)", {}),
        ("/config", config, "A {} in the form of Triton's configurations", {}),
        ("/ready", readiness, "May requests for a {} be sent here? (Open Inference Protocol)", _UNREADY),
    ]
    for path, tell, summary, meanings in told:
        _add_both(router, path, tell, summary, meanings)

    @router.post("/v2/repository/index", summary="The models served (Triton)")
    async def index() -> list[dict[str, str]]:
        return open_inference.repository_index(((model.name, model.version) for model in catalog), lifecycle.ready)

    return router
