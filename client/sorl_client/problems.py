"""What a server's refusal is to the caller: a failed response as a typed error."""

from __future__ import annotations

import httpx

from sorl_client import parameters, wire
from sorl_client.errors import (
    AdminDisabled,
    DeadlineExceeded,
    NotReady,
    Overloaded,
    RateLimited,
    ReloadFailed,
    RequestRefused,
    ServerFailed,
    SorlError,
    Unauthorized,
    VersionGone,
)

_REFUSALS = {kind.default_code: kind for kind in (VersionGone, ReloadFailed, Unauthorized, AdminDisabled)}


def problem(response: httpx.Response) -> SorlError:
    """The typed error of a failed response: the status decides its type, the problem document gives its fields."""
    status = response.status_code
    try:
        document = wire.decode(response.content, response.headers.get("Content-Type", ""))
    except ValueError:  # for example a proxy's HTML page
        document = None
    fields = document if isinstance(document, dict) else {}
    code = fields.get("code")
    kind: type[SorlError] = ServerFailed
    if status == 503:
        kind = NotReady if code == NotReady.default_code else Overloaded
    elif status == 504:
        kind = DeadlineExceeded
    elif status == 429:
        kind = RateLimited
    elif 400 <= status < 500:
        kind = _REFUSALS.get(str(code), RequestRefused)
    detail = fields.get("detail") or fields.get("title") or response.reason_phrase
    field, request_id = fields.get("field"), fields.get("request_id")
    return kind(
        str(detail),
        code=str(code) if code else None if status in (429, 503, 504) else f"http_{status}",
        status=status,
        field=None if field is None else str(field),
        request_id=None if request_id is None else str(request_id),
        retry_after_s=_retry_after_s(fields.get("retry_after_ms"), response.headers.get("Retry-After")),
        # A 500 or 502 without a code comes from a gateway that lost its server. A retry is safe: requests have no
        # side effects.
        retryable=status in (429, 503) or (status in (500, 502) and not code),
    )


def _retry_after_s(milliseconds: object, header: str | None) -> float | None:
    """Seconds to wait: the milliseconds if given, else the header. A date in the header is ignored, since the clocks
    of both sides may differ. A number beyond a float counts as the largest float, which is beyond anyone's patience."""
    most = parameters.FLOAT_MAX
    if isinstance(milliseconds, int | float) and 0.0 <= milliseconds < float("inf"):
        return min(milliseconds, most) / 1e3
    return min(float(header), most) if header is not None and header.isascii() and header.isdigit() else None
