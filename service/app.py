"""`create_app`: settings in, ASGI application out. `sorl-serve`, tests and other hosts all start here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from service.answering import Answerer
from service.models import MakeBackend
from service.runtime import Runtime
from service.settings import Settings
from service.web import (
    Act,
    Websockets,
    admin_routes,
    infer_routes,
    make_application,
    open_inference_routes,
    page_routes,
    prepare,
    public_routes,
)

if TYPE_CHECKING:
    from service.grpc import GrpcEndpoint
    from service.zeromq import GrootEndpoint


def create_app(settings: Settings, make_backend: MakeBackend | None = None) -> FastAPI:
    """The application for one policy, or a folder of them. Its lifespan starts and drains the worker thread.

    `make_backend` is `kernels.choice.create_backend` with the settings' options, unless given.
    `app.state.runtime` is the `Runtime`; `await app.state.runtime.lifecycle.settled()` waits for the end of warm-up.
    `app.state.websockets` is the `Websockets`, whose `port` whoever hosts the application may set.
    `app.state.groot` is GR00T's endpoint, whose `address` clients connect to; None without `zmq_port`.
    `app.state.grpc` is the Open Inference Protocol's endpoint over gRPC, with its `port`; None without `grpc_port`.

    Raises:
        KeysError, CheckpointError, CatalogError, BackendUnavailable, DeviceFailure, OSError: see `Runtime`.
        OSError: `zmq_port` or `grpc_port` can't be bound.
    """
    runtime = Runtime(settings, make_backend)
    lifecycle, catalog, access = runtime.lifecycle, runtime.catalog, runtime.access

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await prepare(app)
        runtime.start()
        if groot is not None:
            groot.start()
        if grpc is not None:
            await grpc.start()
        yield
        await runtime.stop()
        if groot is not None:
            await groot.stop()
        if grpc is not None:
            await grpc.stop()

    answerer = Answerer(
        access=access,
        lifecycle=lifecycle,
        catalog=catalog,
        deadlines=runtime.deadlines,
        scheduler=runtime.scheduler,
        observer=runtime.observer,
        recorder=runtime.recorder,
    )
    groot = _groot_endpoint(settings, answerer, runtime)
    grpc = _grpc_endpoint(settings, answerer, runtime)
    act = Act(answerer, settings.max_body_bytes)
    count_error, cors_origins = runtime.metrics.requests.count_error, settings.cors_origins
    websockets = Websockets(answerer, access, lifecycle, catalog, count_error, cors_origins)
    routers = [
        public_routes(lifecycle, catalog, access, runtime.metrics.text),
        open_inference_routes(lifecycle, catalog),
        admin_routes(lifecycle, runtime.reloader, access),
        page_routes(lifecycle, catalog, runtime.scheduler, runtime.stats),
    ]
    infer = infer_routes(answerer, settings.max_body_bytes, cors_origins)
    app = make_application(act, infer, routers, count_error, lifespan, cors_origins)
    app.router.routes.append(websockets)
    app.state.runtime, app.state.websockets = runtime, websockets
    app.state.groot = groot
    app.state.grpc = grpc
    return app


def _grpc_endpoint(settings: Settings, answerer: Answerer, runtime: Runtime) -> GrpcEndpoint | None:
    if settings.grpc_port is None:
        return None
    from service.grpc import GrpcEndpoint

    certificate, key = settings.ssl_certfile, settings.ssl_keyfile
    return GrpcEndpoint(
        answerer,
        lifecycle=runtime.lifecycle,
        catalog=runtime.catalog,
        host=settings.host,
        port=settings.grpc_port,
        max_body_bytes=settings.max_body_bytes,
        tls=None if certificate is None or key is None else (certificate, key),
    )


def _groot_endpoint(settings: Settings, answerer: Answerer, runtime: Runtime) -> GrootEndpoint | None:
    if settings.zmq_port is None:
        return None
    from service.zeromq import GrootEndpoint

    return GrootEndpoint(
        answerer,
        access=runtime.access,
        lifecycle=runtime.lifecycle,
        catalog=runtime.catalog,
        host=settings.host,
        port=settings.zmq_port,
        max_body_bytes=settings.max_body_bytes,
    )
