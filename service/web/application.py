"""The FastAPI application and its route table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ServiceError
from service.protocol import ACT_ERRORS, ActReply, ActRequest, codec, open_inference, openvla, problem_responses
from service.web.direct import DirectRoute
from service.web.exchange import REQUEST_ID_HEADER
from service.web.open_inference import ROOT as OPEN_INFERENCE
from service.web.open_inference import error_reply
from service.web.problem import install_error_handlers

_FASTAPIS_422 = {
    "description": "Validation Error",
    "content": {codec.JSON: {"schema": {"$ref": "#/components/schemas/HTTPValidationError"}}},
}
_ACT_SCHEMA = ActRequest.model_json_schema(ref_template="#/components/schemas/{model}")
_ACT_BODIES = {
    codec.JSON: {"schema": {"anyOf": [_ACT_SCHEMA, openvla.TEXT_SCHEMA]}},
    codec.MSGPACK: {"schema": _ACT_SCHEMA},
}


def _act_route(act: ASGIApp) -> DirectRoute:
    async def documented() -> None:
        """JSON or msgpack (`application/msgpack`). The reply's format is the request's, or what Accept asks for.

        JSON with json-numpy's arrays in it is answered with such arrays, unless Accept names application/json without
        a wildcard. {"encoded": "..."} holds such a request as text, and its reply is a JSON string.
        """

    return DirectRoute(
        "/act",
        act,
        documented,
        name="act",
        summary="The best of N candidate actions for an observation",
        responses={
            200: {
                "model": ActReply | str,
                "description": "The action, its value, and the compute that was spent; text of it where a text asked",
                "content": {codec.MSGPACK: {"schema": {"type": "object", "description": "As in JSON."}}},
            },
            **problem_responses(ACT_ERRORS),
        },
        openapi_extra={"requestBody": {"required": True, "content": _ACT_BODIES}},
    )


def _without_body(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return send_head


class Application(FastAPI):
    """FastAPI's application, which matches direct routes, POST /act among them, ahead of FastAPI's own layers.

    Those layers (telemetry, errors, body limits, exit stacks, routing) cost 12 us of CPU time a request, and 30 us
    where OpenTelemetry is installed. All of them are for other routes. Middleware that a host adds is run for direct
    routes too.
    """

    _direct: list[tuple[DirectRoute, ASGIApp]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            # A mounted application finds the path it is mounted at in root_path.
            path = scope["path"].removeprefix(scope["root_path"])
            for route, answer in self._direct or self._build_direct():
                if match := route.match(path):
                    scope["app"] = self
                    scope["path_params"] = match.groupdict()
                    await answer(scope, receive, send)
                    return
        if scope["type"] == "http" and scope["method"] == "HEAD":
            # What GET answers, without its body.
            await super().__call__({**scope, "method": "GET"}, receive, _without_body(send))
        else:
            await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """The document, without the 422 that FastAPI adds where an address has parts: any text is a name."""
        if self.openapi_schema is None:
            document = super().openapi()
            for path in document["paths"].values():
                for operation in path.values():
                    if operation["responses"].get("422") == _FASTAPIS_422:
                        del operation["responses"]["422"]
            for unused in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(unused, None)
        return super().openapi()

    def _build_direct(self) -> list[tuple[DirectRoute, ASGIApp]]:
        """Every direct route, and its answer inside the host's middleware."""
        self._direct = []
        for route in self.routes:
            if isinstance(route, DirectRoute):
                answer = route.app
                for middleware, arguments, options in reversed(self.user_middleware):
                    answer = middleware(answer, *arguments, **options)
                self._direct.append((route, answer))
        return self._direct


async def prepare(app: FastAPI) -> None:
    """Do ahead what would hold up the event loop at first requests, in which robots would wait.

    FastAPI completes its routes when it first looks for one, in 10 ms; at the first use of a thread, which was that of
    the first reload, 20 ms of imports come.
    """
    nowhere = {"type": "http", "method": "GET", "path": "/-", "root_path": "", "headers": [], "app": app}
    for route in app.routes:
        route.matches(dict(nowhere))
    await run_in_threadpool(lambda: None)


def make_application(
    act: ASGIApp,
    direct: Iterable[DirectRoute],
    routers: Iterable[APIRouter],
    count_error: Callable[[ServiceError], None],
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
    cors_origins: Sequence[str] = (),
) -> FastAPI:
    """The application with `act`, the routes of `direct` and everything of `routers`.

    `count_error` is told of requests to /act that never reach `act`; `lifespan` runs around the application's life.
    Pages of `cors_origins` may call it from a browser.
    """
    app = Application(
        title="SORL Serve",
        description="A robot's observation and a compute budget in, the best action out.",
        version=version("sorl-serve"),
        lifespan=lifespan,
        redoc_url=None,
    )
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", REQUEST_ID_HEADER, open_inference.HEADER_LENGTH],
            expose_headers=["Retry-After", REQUEST_ID_HEADER, open_inference.HEADER_LENGTH],
        )
    app.router.routes[:0] = [_act_route(act), *direct]
    for router in routers:
        app.include_router(router)
    install_error_handlers(app, count_error, {OPEN_INFERENCE: error_reply})
    return app
