"""The one place that turns errors into replies: `application/problem+json` (RFC 9457), or a protocol's own form."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.errors import InternalError, InvalidRequest, MethodNotAllowed, NotFound, ServiceError
from service.web.exchange import Exchange, Reply, id_header

log = logging.getLogger(__name__)

ErrorForm = Callable[[ServiceError, str], Reply]
"""An error and the id of its request as a reply."""


def request_id_of(request: Request) -> str:
    """The id of a request to anything but POST /act."""
    return Exchange(request.scope, request.receive).request_id


def problem_reply(error: ServiceError, request_id: str) -> Reply:
    """The reply for `error`. It is ASCII: a detail may quote lone surrogates, which UTF-8 can't encode."""
    body = json.dumps({**error.problem(), "request_id": request_id}).encode("ascii")
    headers = [(name.encode("ascii"), value.encode("ascii")) for name, value in error.headers().items()]
    return Reply(error.status, "application/problem+json", body, (*headers, id_header(request_id)))


def install_error_handlers(
    app: FastAPI, count_error: Callable[[ServiceError], None], forms: Mapping[str, ErrorForm]
) -> None:
    """Install the handlers that turn the errors of all routes into replies.

    Args:
        count_error: hears of those of /act.
        forms: what words the errors of a path, by the path's first part; `problem_reply` words all others.
    """

    def reply(request: Request, error: ServiceError) -> Response:
        path = request.scope["path"].removeprefix(request.scope["root_path"])
        form = forms.get(path.lstrip("/").partition("/")[0], problem_reply)
        return form(error, request_id_of(request)).response()

    async def service_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        return reply(request, error)

    async def framework_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        problem = _of_framework(request, error)
        if isinstance(problem, MethodNotAllowed) and request.scope["path"] == request.scope["root_path"] + "/act":
            count_error(problem)
        return reply(request, problem)

    async def fault(request: Request, error: Exception) -> Response:
        request_id = request_id_of(request)
        log.error("request %s failed", request_id, exc_info=error, extra={"request_id": request_id})
        return reply(request, InternalError())

    app.add_exception_handler(ServiceError, service_error)
    app.add_exception_handler(HTTPException, framework_error)
    app.add_exception_handler(Exception, fault)


def _of_framework(request: Request, error: HTTPException) -> ServiceError:
    path = request.url.path
    if error.status_code == 404:
        return NotFound(f"there is no {path!r} here; POST /act is the policy, / lists the rest")
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        return MethodNotAllowed(f"{path!r} has no {request.method}, only {allow}", allow=allow)
    return InvalidRequest(str(error.detail))
