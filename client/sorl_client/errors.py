"""What can go wrong between a robot and its policy server.

SorlError
├── RequestRefused      4xx: the request is at fault; sending it again cannot help
│   ├── VersionGone     409: the model is served, and not, or no longer, in the version asked for
│   ├── ReloadFailed    409: the model's file is not fit to serve; what was served before still is
│   ├── Unauthorized    401: the key is missing or wrong
│   └── AdminDisabled   403: the server was started without an admin key
├── DeadlineExceeded    504 from the server, or the deadline was spent on this side
├── Overloaded          503: the queue is full                                        (retried)
├── NotReady            503: no model is warm yet                                     (retried)
├── ServerFailed        500 and every other status that is not a success; a gateway's own 500 or 502 is retried
├── ConnectionFailed    no reply: unreachable, cut off (retried), or silent too long (not retried)
└── InvalidReply        a success that is not a reply of this protocol
    └── StaleReply      the reply to another request
"""

from __future__ import annotations

from typing import ClassVar


class SorlError(Exception):
    """Base of all errors of this package; each carries what the server said, as far as it said it.

    `code` is the server's stable name of the fault ("overloaded"), `detail` a sentence for people, `status` the HTTP
    status (None when the fault was found on this side), `field` the request's field at fault.
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
        """One line: "invalid_request (HTTP 422, observation): expected 28 numbers"; no field that `detail` names."""
        origin = [f"HTTP {self.status}"] if self.status is not None else []
        origin += [self.field] if self.field and not self.detail.startswith(f"{self.field}:") else []
        return f"{self.code}{' (' + ', '.join(origin) + ')' if origin else ''}: {self.detail}"


class RequestRefused(SorlError):
    """The server refused the request as it is (4xx)."""

    default_code = "invalid_request"


class VersionGone(RequestRefused):
    """The model is not, or no longer, served in the `model_version` asked for: ask `models()` and pin anew."""

    default_code = "version_gone"


class ReloadFailed(RequestRefused):
    """`detail` says what is wrong with the model's file; the version served before is served on."""

    default_code = "reload_failed"


class Unauthorized(RequestRefused):
    """The key is missing or wrong (401)."""

    default_code = "unauthorized"


class AdminDisabled(RequestRefused):
    """The server takes no admin calls, as it was started without an admin key (403)."""

    default_code = "admin_disabled"


class DeadlineExceeded(SorlError):
    """No action by the deadline. `status` is 504 if the server said so, None if the time ran out on this side."""

    default_code = "deadline_exceeded"


class Overloaded(SorlError):
    """The server has no room for the request now (503); `retry_after_s` is when it expects to."""

    default_code = "overloaded"


class NotReady(SorlError):
    """The server is up but has no warm model (503), or did not become ready in the time given."""

    default_code = "not_ready"


class ServerFailed(SorlError):
    """The server failed (500), or something between here and there did."""

    default_code = "server_failed"


class ConnectionFailed(SorlError):
    """The request got no reply."""

    default_code = "connection_failed"


class InvalidReply(SorlError):
    """The reply cannot be read: whatever answers at this address does not speak this protocol."""

    default_code = "invalid_reply"


class StaleReply(InvalidReply):
    """The reply carries another request's id; acting on it would move the robot on an old observation."""

    default_code = "stale_reply"
