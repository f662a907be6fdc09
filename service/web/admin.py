"""Calls for operators, with the admin key."""

from __future__ import annotations

from fastapi import APIRouter, Request

from service.access import Access
from service.lifecycle import Lifecycle
from service.models import Reloader
from service.protocol import ReloadReply, problem_responses

_MEANINGS = {
    401: "unauthorized",
    403: "admin_disabled",
    404: "unknown_model",
    409: "reload_failed: what was served before still is",
    503: "not_ready: warming up, failed, or draining",
}


def admin_routes(lifecycle: Lifecycle, reloader: Reloader, access: Access) -> APIRouter:
    """Routes that need a key of the role admin."""
    router = APIRouter()

    @router.post(
        "/models/{name}/reload",
        summary="Serve a model as its file has it now",
        responses=problem_responses(_MEANINGS),
    )
    async def reload(request: Request, name: str) -> ReloadReply:
        """Answers once the new version is warm and every request from now on gets it, or with what is wrong with it."""
        access.check("admin", request.headers.get("authorization"))
        lifecycle.check_serving()
        done = await reloader.reload(name)
        assert done.previous is not None
        assert done.outcome != "added"
        return ReloadReply(
            model=done.name, model_version=done.version, previous_version=done.previous, outcome=done.outcome
        )

    return router
