"""The one place where errors become replies: `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import json
import logging
import uuid

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.errors import InternalError, InvalidRequest, MethodNotAllowed, NotFound, ServiceError
from service.schemas import MAX_REQUEST_ID, REQUEST_ID

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = "X-Request-ID"


def request_id_of(request: Request) -> str:
    """The id of this request: what its body or header gave, or a new one; fixed once asked for."""
    known: str | None = getattr(request.state, "request_id", None)
    if known is None:
        given = request.headers.get(REQUEST_ID_HEADER)
        known = given if given is not None and REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        request.state.request_id = known
    return known


def check_request_id_header(request: Request) -> None:
    """Raises InvalidRequest for a header that couldn't be echoed, rather than answering under another id."""
    given = request.headers.get(REQUEST_ID_HEADER)
    if given is not None and not REQUEST_ID.fullmatch(given):
        raise InvalidRequest(
            f"{REQUEST_ID_HEADER}: expected 1 to {MAX_REQUEST_ID} printable ASCII characters without spaces",
            field=REQUEST_ID_HEADER,
        )


def problem_response(error: ServiceError, request_id: str) -> Response:
    """The reply for `error`. JSON in ASCII: a detail may quote lone surrogates, which UTF-8 can't hold."""
    body = json.dumps({**error.problem(), "request_id": request_id})
    headers = {**error.headers(), REQUEST_ID_HEADER: request_id}
    return Response(body, error.status, headers, media_type="application/problem+json")


def install_error_handlers(app: FastAPI) -> None:
    """Give `app` the handlers through which every error of every route leaves."""

    async def service_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        return problem_response(error, request_id_of(request))

    async def framework_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return problem_response(_of_framework(request, error), request_id_of(request))

    async def fault(request: Request, error: Exception) -> Response:
        request_id = request_id_of(request)
        log.error("request %s failed", request_id, exc_info=error, extra={"request_id": request_id})
        return problem_response(InternalError("the server failed; its log has the traceback"), request_id)

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
