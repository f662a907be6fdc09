"""Calls for operators, with a key of the role admin. Browsers that make them for another site's page are refused."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request

from service.access import Access
from service.lifecycle import Lifecycle
from service.models import Reloader
from service.protocol import ReloadReply, problem_responses
from service.web.cross_site import refuse_cross_site
from service.web.exchange import Exchange

_MEANINGS = {
    401: "unauthorized",
    403: "admin_disabled or cross_site",
    404: "unknown_model",
    409: "reload_failed: what was served before still is",
    503: "not_ready: warming up, failed, or draining",
}


def _refuse_cross_site(request: Request) -> None:
    refuse_cross_site(Exchange(request.scope, request.receive).headers)


def admin_routes(lifecycle: Lifecycle, reloader: Reloader, access: Access) -> APIRouter:
    """Routes that need a key of the role admin."""
    router = APIRouter(dependencies=[Depends(_refuse_cross_site)])

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
