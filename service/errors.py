"""Errors that clients see. Each class has an HTTP status and a stable code; `web/problem.py` makes the reply.

ServiceError
├── MalformedRequest        400 malformed_request       what came is not HTTP
├── InvalidRequest          422 invalid_request         a field is missing, unknown, of a wrong type, shape or range
│   ├── BudgetTooLarge      422 budget_too_large        more compute than one request may ask for
│   └── ObservationTooLarge 422 observation_too_large such that the policy gives NaN or infinity for it
├── Unauthorized            401 unauthorized            the key is missing or wrong
├── AdminDisabled           403 admin_disabled          the server has no key of the role admin
├── CrossSite               403 cross_site              a call that a browser makes for another site's page
├── NotFound                404 not_found               no such page
├── UnknownModel            404 unknown_model
├── MethodNotAllowed        405 method_not_allowed
├── RequestTimeout          408 request_timeout         the rest of the request did not come in time
├── VersionGone             409 version_gone            the model is served, in another version
├── ReloadFailed            409 reload_failed           the file is not fit to serve; what was served before still is
├── PayloadTooLarge         413 payload_too_large
├── UnsupportedMediaType    415 unsupported_media_type
├── RateLimited             429 rate_limited            a limit of its key; try again after `retry_after_ms`
├── HeadersTooLarge         431 headers_too_large
├── ClientGone              499 client_gone             nobody reads this one; it is for the metrics
├── InternalError           500 internal_error          a fault of the server outside its engine
├── EngineFailed            500 engine_failed           the engine raised, died or got stuck with this request
├── NonfiniteOutput         500 nonfinite_output        the policy gave NaN or infinity: nothing to send to a motor
├── Unavailable             503                         try again after `retry_after_ms`
│   ├── NotReady            503 not_ready               warming up, or draining
│   └── Overloaded          503 overloaded              too much is queued ahead of it, or no time now for its deadline
└── DeadlineExceeded        504 deadline_exceeded       passed before the reply, or can't be met on an idle server
"""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any


class ServiceError(Exception):
    """A request ends with `status` and `code`; `detail` says to a person what happened and what was expected."""

    status = 500
    code = "internal_error"
    reasons: tuple[str, ...] = ()
    """The values of `reason`, which is finer than `code` and for the metrics only."""

    def __init__(self, detail: str, *, field: str | None = None, reason: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.reason = reason

    def headers(self) -> dict[str, str]:
        """Response headers beyond the content type."""
        return {}

    def problem(self) -> dict[str, Any]:
        """The members of an RFC 9457 problem, as plain JSON values."""
        members: dict[str, Any] = {
            "type": f"urn:sorl:problem:{self.code}",
            "title": _title(self.status),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.field is not None:
            members["field"] = self.field
        return members


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Client Closed Request"  # 499, nginx's number, is in no RFC


class MalformedRequest(ServiceError):
    """What came is not HTTP; nothing can be said of its fields."""

    status = 400
    code = "malformed_request"


class InvalidRequest(ServiceError):
    """The request can't be understood; `field` names the field at fault, if there is one."""

    status = 422
    code = "invalid_request"


class BudgetTooLarge(InvalidRequest):
    """num_candidates, num_steps, or their product with the rows, is above what one request may ask for."""

    code = "budget_too_large"


class ObservationTooLarge(InvalidRequest):
    """A value of the observation is so large that the policy gives NaN or infinity. Known once it is computed."""

    code = "observation_too_large"


class Unauthorized(ServiceError):
    """The key is missing or wrong."""

    status = 401
    code = "unauthorized"

    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class AdminDisabled(ServiceError):
    """The server has no key of the role admin and takes no admin calls."""

    status = 403
    code = "admin_disabled"


class CrossSite(ServiceError):
    """A browser makes this call for a page of another site."""

    status = 403
    code = "cross_site"


class NotFound(ServiceError):
    """No such page."""

    status = 404
    code = "not_found"


class UnknownModel(ServiceError):
    """No model of this name is served."""

    status = 404
    code = "unknown_model"


class MethodNotAllowed(ServiceError):
    """The page exists, but not for this method; `allow` lists those it has."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, detail: str, *, allow: str) -> None:
        super().__init__(detail)
        self.allow = allow

    def headers(self) -> dict[str, str]:
        return {"Allow": self.allow}


class RequestTimeout(ServiceError):
    """The rest of the request did not come in time. It is no longer waited for: the connection ends with the reply."""

    status = 408
    code = "request_timeout"

    def headers(self) -> dict[str, str]:
        return {"Connection": "close"}


class VersionGone(ServiceError):
    """The model is served in another version than the one asked for, or no longer in that one."""

    status = 409
    code = "version_gone"


class ReloadFailed(ServiceError):
    """The model's file can't be served; `detail` names the fault. What was served before is served on."""

    status = 409
    code = "reload_failed"


class PayloadTooLarge(ServiceError):
    """The body is longer than the server reads."""

    status = 413
    code = "payload_too_large"


class UnsupportedMediaType(ServiceError):
    """The body is neither JSON nor msgpack, or it is compressed."""

    status = 415
    code = "unsupported_media_type"


class HeadersTooLarge(ServiceError):
    """The request line and the headers are longer than the server reads."""

    status = 431
    code = "headers_too_large"


class ClientGone(ServiceError):
    """The client hung up before its answer was there."""

    status = 499
    code = "client_gone"
    reasons = ("receiving", "queued", "computing")


class InternalError(ServiceError):
    """A fault outside the engine; the traceback is in the log."""

    def __init__(self, detail: str = "the server failed; its log has the traceback") -> None:
        super().__init__(detail)


class EngineFailed(ServiceError):
    """The engine raised, died or got stuck with this request; the log has the traceback."""

    status = 500
    code = "engine_failed"


class NonfiniteOutput(ServiceError):
    """The policy produced NaN or infinity for this observation."""

    status = 500
    code = "nonfinite_output"


class RetryLater(ServiceError):
    """Not now; `retry_after_ms` says when to try again."""

    def __init__(self, detail: str, *, retry_after_ms: int, reason: str | None = None) -> None:
        super().__init__(detail, reason=reason)
        self.retry_after_ms = max(1, retry_after_ms)

    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(math.ceil(self.retry_after_ms / 1000))}  # the header has whole seconds only

    def problem(self) -> dict[str, Any]:
        return {**super().problem(), "retry_after_ms": self.retry_after_ms}


class RateLimited(RetryLater):
    """The key has spent what it may spend in this second; `reason` is the limit."""

    status = 429
    code = "rate_limited"
    reasons = ("requests_per_second", "rows_per_second")


class Unavailable(RetryLater):
    """Not now; `retry_after_ms` is the server's estimate of when to try again."""

    status = 503


class NotReady(Unavailable):
    """Warming up, failed to warm up, or draining."""

    code = "not_ready"
    reasons = ("not_ready",)

    def __init__(self, detail: str, *, retry_after_ms: int) -> None:
        super().__init__(detail, retry_after_ms=retry_after_ms, reason="not_ready")


class Overloaded(Unavailable):
    """No time now: more is queued ahead of the request than the queue holds or its deadline allows, or the server is
    slower than at its best and the deadline short.
    """

    code = "overloaded"
    reasons = ("queue_full", "backlog", "slow")


class DeadlineExceeded(ServiceError):
    """The deadline passed before the request's last batch, or is too short for an exact budget on an idle server."""

    status = 504
    code = "deadline_exceeded"
    reasons = ("too_short", "expired_queued", "expired_computing")

    def __init__(self, detail: str, *, reason: str | None = None) -> None:
        super().__init__(detail, reason=reason)
        self._what_happened = detail

    def name_deadline(self, name: str, value: float, unit: str) -> None:
        """Say which deadline it was, and its unit: clients may think in seconds. The last call counts."""
        self.detail = f"{self._what_happened} ({name} was {value:.10g}, in {unit})"
