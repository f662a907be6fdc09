"""What is served besides POST /act: models, health, readiness and metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from service.access import Access
from service.lifecycle import Lifecycle
from service.models import Catalog
from service.protocol import problem_responses


def public_routes(
    lifecycle: Lifecycle, catalog: Catalog, access: Access, metrics_text: Callable[[], bytes]
) -> APIRouter:
    """Routes that need no key, but for /metrics once there is a key of that role. `metrics_text` renders its text."""
    router = APIRouter()

    @router.get("/models", summary="What is served, its dimensions, limits and measured frontier")
    async def models() -> dict[str, Any]:
        """All models."""
        return {"models": [catalog.describe(model.name) for model in catalog]}

    @router.get("/models/{name}", summary="One model", responses=problem_responses({404: "unknown_model"}))
    async def model(name: str) -> dict[str, Any]:
        """One model by its name."""
        return catalog.describe(name)

    @router.get(
        "/healthz",
        summary="Is the process alive?",
        responses=problem_responses({500: "internal_error: only a restart helps"}),
    )
    async def healthz() -> dict[str, str]:
        """500 once only a restart helps: the device has failed, the engine is stuck, or its thread is gone for good."""
        lifecycle.check_alive()
        return {"status": "ok"}

    @router.get(
        "/readyz",
        summary="May requests be sent here?",
        responses=problem_responses({503: "not_ready: warming up, failed to, or draining"}),
    )
    async def readyz() -> dict[str, str]:
        """200 after warm-up has succeeded and until SIGTERM."""
        lifecycle.check_ready()
        return {"status": "ready"}

    @router.get(
        "/metrics",
        summary="Prometheus metrics",
        response_class=PlainTextResponse,
        responses=problem_responses({401: "unauthorized"}),
    )
    async def metrics(request: Request) -> Response:
        """The text exposition format."""
        access.check("metrics", request.headers.get("authorization"))
        return Response(metrics_text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return router
