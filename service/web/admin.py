"""Calls for whoever runs the server, with the admin key."""

from __future__ import annotations

from fastapi import APIRouter, Request

from service.protocol.replies import ReloadReply, problem_responses
from service.runtime import Service
from service.web.auth import check_admin_key

router = APIRouter()

_MEANINGS = {
    401: "unauthorized",
    403: "admin_disabled",
    404: "unknown_model",
    409: "reload_failed: what was served before still is",
    503: "not_ready: warming up, failed, or draining",
}


@router.post(
    "/models/{name}/reload",
    summary="Serve a model as its file has it now",
    responses=problem_responses(_MEANINGS),
)
async def reload(request: Request, name: str) -> ReloadReply:
    """Answers once the new version is warm and every request from now on gets it, or with what is wrong with it."""
    service: Service = request.app.state.service
    check_admin_key(service.settings, request.headers.get("authorization"))
    service.check_serving()
    done = await service.reloader.reload(name)
    assert done.previous is not None
    assert done.outcome != "added"
    return ReloadReply(
        model=done.name, model_version=done.version, previous_version=done.previous, outcome=done.outcome
    )
