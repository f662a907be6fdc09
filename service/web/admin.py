"""Calls for operators, with a key of the role admin. Browsers that make them for another site's page are refused."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request

from service.access import Access
from service.errors import CrossSite
from service.lifecycle import Lifecycle
from service.models import Reloader
from service.protocol import ReloadReply, problem_responses

_MEANINGS = {
    401: "unauthorized",
    403: "admin_disabled or cross_site",
    404: "unknown_model",
    409: "reload_failed: what was served before still is",
    503: "not_ready: warming up, failed, or draining",
}


def refuse_cross_site(request: Request) -> None:
    """Raises CrossSite for a call that a browser makes for the page of another site, whatever key it brings.

    Browsers say where a POST comes from, and pages can't change what they say: all in Origin, newer ones in
    Sec-Fetch-Site too. Programs send neither.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site in ("cross-site", "same-site"):
        raise CrossSite(f"admin calls of other sites' pages are refused (Sec-Fetch-Site: {site})")
    # By host and port alone: a proxy may have ended TLS, and then the scheme is another one here. Pages without a site
    # of their own, as files and sandboxed frames, send "null".
    if origin is not None and origin.partition("://")[2].lower() != request.headers.get("host", "-").lower():
        raise CrossSite("admin calls of other sites' pages are refused (Origin is not Host)")


def admin_routes(lifecycle: Lifecycle, reloader: Reloader, access: Access) -> APIRouter:
    """Routes that need a key of the role admin."""
    router = APIRouter(dependencies=[Depends(refuse_cross_site)])

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
