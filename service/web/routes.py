"""The HTTP endpoints, as /docs shows them. `act` is where POST /act is answered."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from service.errors import InternalError
from service.protocol import codec
from service.protocol.replies import ActReply, problem_responses
from service.protocol.schemas import ActRequest
from service.runtime import Service
from service.web.act import Act

router = APIRouter()

_MEANINGS = {
    401: "unauthorized",
    404: "unknown_model",
    409: "version_gone",
    413: "payload_too_large",
    415: "unsupported_media_type",
    422: "invalid_request or budget_too_large",
    500: "engine_failed or nonfinite_output",
    503: "overloaded or not_ready, with Retry-After",
    504: "deadline_exceeded",
}
_ACT_BODY = {"schema": ActRequest.model_json_schema(ref_template="#/components/schemas/{model}")}


@router.post(
    "/act",
    summary="The best of N candidate actions for an observation",
    response_model=None,
    responses={
        200: {"model": ActReply, "description": "The action, what it is worth, and what was spent"},
        **problem_responses(_MEANINGS),
    },
    openapi_extra={"requestBody": {"required": True, "content": {codec.JSON: _ACT_BODY, codec.MSGPACK: _ACT_BODY}}},
)
async def act(request: Request) -> Response:
    """JSON or msgpack (`application/msgpack`), the reply in the request's own format unless Accept says otherwise."""
    answer: Act = request.app.state.act
    return (await answer.reply(request.scope, request.receive)).response()


@router.get("/models", summary="What is served, its dimensions, limits and measured frontier")
async def models(request: Request) -> dict[str, Any]:
    """All models."""
    catalog = request.app.state.service.catalog
    return {"models": [catalog.describe(model.name) for model in catalog]}


@router.get("/models/{name}", summary="One model", responses=problem_responses({404: "unknown_model"}))
async def model(request: Request, name: str) -> dict[str, Any]:
    """One model by its name."""
    description: dict[str, Any] = request.app.state.service.catalog.describe(name)
    return description


@router.get("/healthz", summary="Is the process alive?")
async def healthz(request: Request) -> dict[str, str]:
    """500 once the device has failed, the engine is stuck or its thread gone for good, which only a restart mends."""
    service: Service = request.app.state.service
    if service.broken is not None:
        raise InternalError(service.broken)
    return {"status": "ok"}


@router.get(
    "/readyz",
    summary="May requests be sent here?",
    responses=problem_responses({503: "not_ready: warming up, failed to, or draining"}),
)
async def readyz(request: Request) -> dict[str, str]:
    """200 after warm-up has succeeded and until SIGTERM."""
    service: Service = request.app.state.service
    service.check_ready()
    return {"status": "ready"}


@router.get("/metrics", summary="Prometheus metrics")
async def metrics(request: Request) -> Response:
    """The text exposition format."""
    return Response(request.app.state.service.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})
