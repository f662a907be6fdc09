"""The FastAPI application and its route table. POST /act is a route in it that `Act` answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

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
ACT = "/act"
_ACT_BODY = {"schema": ActRequest.model_json_schema(ref_template="#/components/schemas/{model}")}


class ActRoute(APIRoute):
    """POST /act: FastAPI documents it, `act` answers it as an ASGI application."""

    def __init__(self, act: ASGIApp) -> None:
        async def documented() -> None:
            """JSON or msgpack (`application/msgpack`). The reply's format is the request's, or what Accept asks for."""

        super().__init__(
            ACT,
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


class Application(FastAPI):
    """FastAPI's application, which matches POST /act ahead of FastAPI's own layers.

    Those layers (errors, body limits, telemetry, exit stacks, routing) cost 12 us of CPU time a request, and all of
    them are for other routes: `Act` limits bodies and turns errors into replies itself. The middleware that a host adds
    is run for POST /act too.
    """

    def build_middleware_stack(self) -> ASGIApp:
        hosts, self.user_middleware = self.user_middleware, []
        rest = super().build_middleware_stack()
        self.user_middleware = hosts
        (act,) = (route.app for route in self.routes if isinstance(route, ActRoute))

        async def act_first(scope: Scope, receive: Receive, send: Send) -> None:
            # A mounted application finds the path it is mounted at in root_path.
            if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == scope["root_path"] + ACT:
                await act(scope, receive, send)
            else:
                await rest(scope, receive, send)

        stack: ASGIApp = act_first
        for middleware, arguments, options in reversed(hosts):
            stack = middleware(stack, *arguments, **options)
        return stack


def make_application(
    act: ASGIApp,
    routers: Iterable[APIRouter],
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
) -> FastAPI:
    """The application with `act` and everything of `routers`; `lifespan` runs around its life."""
    app = Application(
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
