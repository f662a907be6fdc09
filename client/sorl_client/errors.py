"""Errors of this package.

SorlError
├── RequestRefused      4xx: the request is at fault; sending it again can't help
│   ├── InvalidArgument     a ValueError: the client found an argument at fault, and sent nothing
│   │   └── WrongArgumentType   a TypeError too: it is of the wrong type
│   ├── VersionGone     409: the model is served, but not (or no longer) in the requested version
│   ├── ReloadFailed    409: the model's file can't be served; the previous version still is
│   ├── Unauthorized    401: the key is missing or wrong
│   └── AdminDisabled   403: the server was started without an admin key
├── RateLimited         429: the key has spent what it may in this second             (retried)
├── DeadlineExceeded    504 from the server, or the deadline passed in the client
├── Overloaded          503: the queue is full                                        (retried)
├── NotReady            503: no model is warm yet                                     (retried)
├── ServerFailed        500 and every other status that is not a success; a gateway's own 500 or 502 is retried
├── ConnectionFailed    no reply: no connection or a broken one (retried), or a timeout (not retried)
├── CircuitOpen         nothing was sent: the server has failed too often just now
└── InvalidReply        a success whose body is not a valid reply
    └── StaleReply      a reply to another request
"""

from __future__ import annotations

from typing import ClassVar


class SorlError(Exception):
    """Base of all errors of this package, with the fields of the server's problem document.

    code           the server's stable name of the error ("overloaded")
    detail         a sentence for people
    status         the HTTP status; None if the client found the error
    field          the request's field at fault, if there is one
    request_id     the request's id, if known
    retry_after_s  seconds after which the server expects to accept the request, if it said so
    retryable      whether sending the same request again may succeed
    """

    default_code: ClassVar[str] = "error"

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        status: int | None = None,
        field: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.default_code
        self.status = status
        self.field = field
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.retryable = retryable

    def __str__(self) -> str:
        """One line: "invalid_request (HTTP 422, observation): expected 28 numbers". A field that `detail` starts with
        is not repeated."""
        origin = [f"HTTP {self.status}"] if self.status is not None else []
        origin += [self.field] if self.field and not self.detail.startswith(f"{self.field}:") else []
        return f"{self.code}{' (' + ', '.join(origin) + ')' if origin else ''}: {self.detail}"


class RequestRefused(SorlError):
    """The server refused the request (4xx), or the client refused to send it."""

    default_code = "invalid_request"


class InvalidArgument(RequestRefused, ValueError):
    """The argument `field` of a call or constructor is out of range. Nothing was sent; `status` is None."""

    default_code = "invalid_argument"

    def __str__(self) -> str:
        """One line. `detail` begins with the argument's name."""
        return f"{self.code}: {self.detail}"


class WrongArgumentType(InvalidArgument, TypeError):
    """The argument `field` is of the wrong type: a string, boolean or fraction where a number or integer is needed."""


class VersionGone(RequestRefused):
    """The model is not, or no longer, served in the requested `model_version`; `models()` lists the current one."""

    default_code = "version_gone"


class ReloadFailed(RequestRefused):
    """The model's file can't be served, for the reason in `detail`; the previous version is still served."""

    default_code = "reload_failed"


class Unauthorized(RequestRefused):
    """The key is missing or wrong (401)."""

    default_code = "unauthorized"


class AdminDisabled(RequestRefused):
    """The server takes no admin calls, because it was started without an admin key (403)."""

    default_code = "admin_disabled"


class DeadlineExceeded(SorlError):
    """No action by the deadline. `status` is 504 if the server said so, None if the client's clock did."""

    default_code = "deadline_exceeded"


class RateLimited(SorlError):
    """The key's limit is spent (429); `retry_after_s` is when the next request fits."""

    default_code = "rate_limited"


class Overloaded(SorlError):
    """The server's queue is full (503); `retry_after_s` is when it expects to have room."""

    default_code = "overloaded"


class NotReady(SorlError):
    """The server is up but has no warm model (503), or did not become ready in the time given."""

    default_code = "not_ready"


class ServerFailed(SorlError):
    """The server failed (500), or a gateway before it did."""

    default_code = "server_failed"


class ConnectionFailed(SorlError):
    """The request got no reply."""

    default_code = "connection_failed"


class CircuitOpen(SorlError):
    """Nothing was sent: the server failed too often in a row (see `CircuitBreaker`); `retry_after_s` is the rest of the
    cool-down."""

    default_code = "circuit_open"


class InvalidReply(SorlError):
    """The reply can't be read: the server at this address may not be a SORL server."""

    default_code = "invalid_reply"


class StaleReply(InvalidReply):
    """The reply has another request's id, so its action may be for an old observation."""

    default_code = "stale_reply"
