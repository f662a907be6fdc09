"""The FastAPI application and its one route table. POST /act is in it as a route that `Act` answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp

from service.protocol import ActReply, ActRequest, codec, problem_responses
from service.web.problem import install_error_handlers

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


class ActRoute(APIRoute):
    """POST /act: FastAPI documents it, `act` answers it as an ASGI application."""

    def __init__(self, act: ASGIApp) -> None:
        async def documented() -> None:
            """JSON or msgpack (`application/msgpack`). The reply's format is the request's, or what Accept asks for."""

        super().__init__(
            "/act",
            documented,
            methods=["POST"],
            name="act",
            summary="The best of N candidate actions for an observation",
            response_model=None,
            responses={
                200: {"model": ActReply, "description": "The action, its value, and the compute that was spent"},
                **problem_responses(_MEANINGS),
            },
            openapi_extra={
                "requestBody": {"required": True, "content": {codec.JSON: _ACT_BODY, codec.MSGPACK: _ACT_BODY}}
            },
        )
        self.app = act


def make_application(
    act: ASGIApp,
    routers: Iterable[APIRouter],
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
) -> FastAPI:
    """The application with `act` and everything of `routers`; `lifespan` runs around its life."""
    app = FastAPI(
        title="SORL Serve",
        description="A robot's observation and a compute budget in, the best action out.",
        version=version("sorl-serve"),
        lifespan=lifespan,
        redoc_url=None,
    )
    app.router.routes.insert(0, ActRoute(act))
    for router in routers:
        app.include_router(router)
    install_error_handlers(app)
    return app
