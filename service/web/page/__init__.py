"""The page for people at `/`: plain files beside this one, without a build step and without anything from elsewhere.

The files are read once. The path of scripts and styles holds the digest of all files: a browser may keep them for good,
and a new release has a new path. The page itself is revalidated every time, with a 304 while it is the same.
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.budget import CostModel
from service.errors import NotFound
from service.lifecycle import Lifecycle
from service.models import Catalog
from service.observability import Stats
from service.scheduling import Scheduler

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# Everything comes from this server; nothing is inline or made from strings.
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ]
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
}

_FOLDER = Path(__file__).parent
_FILES = {path.name: path.read_bytes() for path in sorted(_FOLDER.iterdir()) if path.suffix in MEDIA_TYPES}
_DIGEST = hashlib.sha256(b"".join(name.encode() + content for name, content in _FILES.items())).hexdigest()[:16]
_FILES["index.html"] = _FILES["index.html"].replace(b"{{assets}}", f"page/{_DIGEST}".encode())
_COMPRESSED = {name: gzip.compress(content, mtime=0) for name, content in _FILES.items()}  # 62 kB become 23
_ETAG = f'W/"{_DIGEST}"'


def page_routes(lifecycle: Lifecycle, catalog: Catalog, scheduler: Scheduler, stats: Stats) -> APIRouter:
    """The page, its files, and GET /stats, which it polls."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def index(request: Request) -> Response:
        """The page."""
        headers = {"Cache-Control": "no-cache", "ETag": _ETAG}
        if _ETAG in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers={**_HEADERS, **headers})
        return _file(request, "index.html", headers)

    @router.get("/page/{digest}/{name}")
    async def asset(request: Request, digest: str, name: str) -> Response:
        """A file of the page. Another release's files are a 404; its page is revalidated before they are asked for."""
        if digest != _DIGEST or name not in _FILES:
            raise NotFound(f"there is no {name[:80]!r} of that version of the page; / has the current one")
        return _file(request, name, {"Cache-Control": "public, max-age=31536000, immutable"})

    @router.get("/stats")
    async def recent() -> dict[str, Any]:
        """The last minute's answers, what waits, and what is predicted. Its fields change with the page."""
        return {
            "state": "draining" if lifecycle.draining else lifecycle.state,
            "queue": {"requests": scheduler.queued, "predicted_ms": scheduler.queued_seconds * 1e3},
            "models": {
                model.name: {"version": model.version, "cost_ms": _cost_ms(model.engine.cost)} for model in catalog
            },
            **stats.summary(),
        }

    return router


def _file(request: Request, name: str, headers: dict[str, str]) -> Response:
    headers = {**_HEADERS, **headers, "Content-Type": MEDIA_TYPES[Path(name).suffix]}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(_COMPRESSED[name], headers={**headers, "Content-Encoding": "gzip"})
    return Response(_FILES[name], headers=headers)


def _cost_ms(cost: CostModel) -> dict[str, float]:
    """One observation alone takes `request` + N * (`candidate` + M * `step`) milliseconds."""
    scored, stepped = cost.estimate(1, 1, 0), cost.estimate(1, 1, 1)
    return {
        "request": (scored.per_call + scored.fixed) * 1e3,
        "candidate": scored.per_row * 1e3,
        "step": (stepped.per_row - scored.per_row) * 1e3,
    }
