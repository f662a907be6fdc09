"""`create_app`: settings in, ASGI application out. `sorl-serve`, tests and other hosts all start here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from service.models.loading import MakeBackend
from service.runtime import Service
from service.settings import Settings
from service.web import admin, page
from service.web.act import Act
from service.web.problem import install_error_handlers
from service.web.routes import router


class Application(FastAPI):
    """FastAPI's, but POST /act goes straight to `Act`, past routing, middleware and dependencies: 0.1 ms of CPU time a
    request, as much as all the rest. Once a host adds middleware, or mounts the application, nothing is passed by.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        direct = scope["type"] == "http" and scope["path"] == "/act" and scope["method"] == "POST"
        if direct and not self.user_middleware:
            act: Act = self.state.act
            await act(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(settings: Settings, make_backend: MakeBackend | None = None) -> FastAPI:
    """The application for one policy, or a folder of them; its lifespan starts and drains the worker.

    `make_backend` is `kernels.choice.create_backend` with the settings' options, unless given.
    `app.state.service` is the `Service`; `await app.state.service.settled()` waits for warm-up.

    Raises:
        CheckpointError, CatalogError, BackendUnavailable, DeviceFailure, OSError: see `Service`.
    """
    service = Service(settings, make_backend)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    app = Application(
        title="SORL Serve",
        description="A robot's observation and a compute budget in, the best action out.",
        version=version("sorl-serve"),
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.service = service
    app.state.act = Act(service)
    app.include_router(router)
    app.include_router(admin.router)
    app.include_router(page.router)
    install_error_handlers(app)
    return app
