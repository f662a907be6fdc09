"""The FastAPI application and its route table. POST /act is a route in it that `Act` answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ServiceError
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


def _without_body(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return send_head


class Application(FastAPI):
    """FastAPI's application, which matches POST /act ahead of FastAPI's own layers.

    Those layers (telemetry, errors, body limits, exit stacks, routing) cost 12 us of CPU time a request, and 30 us
    where OpenTelemetry is installed. All of them are for other routes: `Act` limits bodies and turns errors into
    replies itself. Middleware that a host adds is run for POST /act too.
    """

    _act: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A mounted application finds the path it is mounted at in root_path.
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == scope["root_path"] + ACT:
            if self._act is None:
                self._act = self._build_act()
            scope["app"] = self
            await self._act(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "HEAD":
            # What GET answers, without its body.
            await super().__call__({**scope, "method": "GET"}, receive, _without_body(send))
        else:
            await super().__call__(scope, receive, send)

    def _build_act(self) -> ASGIApp:
        """The route's answer, inside the host's middleware."""
        (act,) = (route.app for route in self.routes if isinstance(route, ActRoute))
        for middleware, arguments, options in reversed(self.user_middleware):
            act = middleware(act, *arguments, **options)
        return act


def make_application(
    act: ASGIApp,
    routers: Iterable[APIRouter],
    count_error: Callable[[ServiceError], None],
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
) -> FastAPI:
    """The application with `act` and everything of `routers`.

    `count_error` is told of requests to /act that never reach `act`; `lifespan` runs around the application's life.
    """
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
    install_error_handlers(app, count_error)
    return app
