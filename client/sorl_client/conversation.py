"""The client's protocol without I/O: builds requests, reads replies, decides on retries.

Each call is a generator. It yields an effect (a request to send, or seconds to sleep) and receives the outcome.
`Client` performs the effects with blocking calls, `AsyncClient` with asyncio; all else is shared here.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Mapping
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import httpx
import numpy.typing as npt

from sorl_client import parameters, wire
from sorl_client.action import Action
from sorl_client.errors import (
    AdminDisabled,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidReply,
    NotReady,
    Overloaded,
    ReloadFailed,
    RequestRefused,
    ServerFailed,
    SorlError,
    StaleReply,
    Unauthorized,
    VersionGone,
)
from sorl_client.retry import RetryPolicy

T = TypeVar("T")
Effect = httpx.Request | float
Outcome = httpx.Response | httpx.RequestError | None
Exchange = Generator[Effect, Outcome, T]

OnLate = Literal["degrade", "reject"]
# Not ReadTimeout: a retry would add to the load that delays the reply.
BROKEN_CONNECTION = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout, httpx.PoolTimeout)
POLL_S = 0.1
REFUSALS = {kind.default_code: kind for kind in (VersionGone, ReloadFailed, Unauthorized, AdminDisabled)}


class Conversation:
    """The calls of a client, as generators; it has no connection and does not sleep."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None,
        timeout_s: float,
        transit_ms: float,
        retry: RetryPolicy,
        media_type: wire.MediaType,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        parsed = httpx.URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(f"need a URL such as http://127.0.0.1:8000, got {url!r}")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ValueError("api_key must be printable ASCII, because it is sent in a header")
        self.url = url.rstrip("/")
        self._headers = {"User-Agent": "sorl-client"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        self._timeout_s = parameters.TIMEOUT_S("timeout_s", timeout_s)
        self._transit_s = parameters.TRANSIT_MS("transit_ms", transit_ms) / 1e3
        self._retry = retry
        self._media_type = media_type
        self._clock = clock
        self._random = random

    def act(
        self,
        observation: npt.ArrayLike,
        *,
        num_candidates: int | None,
        num_steps: int | None,
        deadline_ms: float | None,
        on_late: OnLate,
        seed: int | list[int] | None,
        temperature: float | None,
        model: str | None,
        model_version: str | None,
        priority: int | None,
        return_candidates: bool,
        request_id: str | None,
    ) -> Exchange[Action]:
        """POST /act, see `Client.act`."""
        started = self._clock()
        deadline_ms = parameters.DEADLINE_MS.or_none("deadline_ms", deadline_ms)
        request_id = request_id or uuid.uuid4().hex
        rows = parameters.observation("observation", observation)
        fields: dict[str, Any] = {"observation": rows, "on_late": on_late, "request_id": request_id}
        optional = {
            "num_candidates": parameters.BUDGET.or_none("num_candidates", num_candidates),
            "num_steps": parameters.BUDGET.or_none("num_steps", num_steps),
            "seed": parameters.seed("seed", seed),
            "temperature": parameters.TEMPERATURE.or_none("temperature", temperature),
            "model": model,
            "model_version": model_version,
            "priority": parameters.PRIORITY.or_none("priority", priority),
            "return_candidates": return_candidates or None,
        }
        fields |= {name: value for name, value in optional.items() if value is not None}
        deadline = None if deadline_ms is None else started + deadline_ms / 1e3
        response, attempts = yield from self._exchange("POST", "/act", fields, deadline)
        reply = self._body(response)
        if not isinstance(reply, dict):
            raise InvalidReply(f"expected a map from {response.url}", status=response.status_code)
        if reply.get("request_id") != request_id:
            raise StaleReply(
                f"sent request_id {request_id}, the reply has {reply.get('request_id')}", request_id=request_id
            )
        try:
            return Action.from_reply(reply, latency_ms=(self._clock() - started) * 1e3, attempts=attempts)
        except (KeyError, TypeError, ValueError) as error:
            fault = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise InvalidReply(f"from {response.url}: {fault}", request_id=request_id) from error

    def models(self) -> Exchange[list[dict[str, Any]]]:
        """GET /models, see `Client.models`."""
        response, _ = yield from self._exchange("GET", "/models", None, None)
        reply = self._body(response)
        models = reply.get("models") if isinstance(reply, dict) else None
        if not isinstance(models, list) or not all(isinstance(model, dict) and "name" in model for model in models):
            raise InvalidReply(f"no list of models from {response.url}", status=response.status_code)
        return models

    def reload(self, name: str) -> Exchange[dict[str, Any]]:
        """POST /models/{name}/reload, see `Client.reload`."""
        response, _ = yield from self._exchange("POST", f"/models/{quote(name, safe='')}/reload", None, None)
        reply = self._body(response)
        if not isinstance(reply, dict) or reply.get("model") != name:
            raise InvalidReply(f"no reload of {name!r} from {response.url}", status=response.status_code)
        return reply

    def ready(self) -> Exchange[bool]:
        """GET /readyz once, see `Client.ready`."""
        return (yield from self._probe(self._timeout_s)) is None

    def wait_until_ready(self, timeout: float) -> Exchange[None]:
        """GET /readyz until it says yes, see `Client.wait_until_ready`."""
        timeout = parameters.WAIT_S("timeout", timeout)
        end = self._clock() + timeout
        while True:
            fault = yield from self._probe(max(POLL_S, min(self._timeout_s, end - self._clock())))
            if fault is None:
                return
            if self._clock() + POLL_S >= end:
                raise NotReady(f"{self.url} is not ready after {timeout:g} s: {fault.detail}", status=fault.status)
            yield POLL_S

    def _probe(self, timeout_s: float) -> Exchange[SorlError | None]:
        outcome = yield self._request("GET", "/readyz", None, timeout_s)
        if isinstance(outcome, httpx.Response) and outcome.is_success:
            return None
        fault = self._fault(outcome)
        if isinstance(fault, RequestRefused):
            raise fault  # waiting can't help: it is another kind of server, or needs another key
        return fault

    def _exchange(
        self, method: str, path: str, fields: dict[str, Any] | None, deadline: float | None
    ) -> Exchange[tuple[httpx.Response, int]]:
        """Send until a success. Returns the response and the number of attempts.

        `deadline` is a time of the client's clock, in seconds.
        """
        attempts, cause = 0, None
        while True:
            timeout_s = self._timeout_s
            if deadline is not None and fields is not None:
                timeout_s = deadline - self._clock()
                if timeout_s <= self._transit_s:
                    raise self._too_late(attempts, fields) from cause
                fields = fields | {"deadline_ms": (timeout_s - self._transit_s) * 1e3}
            outcome = yield self._request(method, path, fields, timeout_s)
            attempts += 1
            in_time = deadline is None or self._clock() <= deadline
            if isinstance(outcome, httpx.Response) and outcome.is_success and in_time:
                return outcome, attempts
            if not in_time or (deadline is not None and isinstance(outcome, httpx.TimeoutException)):
                raise self._too_late(attempts, fields) from (outcome if isinstance(outcome, Exception) else None)
            fault = self._fault(outcome)
            wait_s = self._retry.wait_s(attempts - 1, fault.retry_after_s, self._random) if fault.retryable else None
            if wait_s is None:
                raise fault
            if deadline is not None and self._clock() + wait_s + self._transit_s >= deadline:
                raise self._too_late(attempts, fields) from fault
            cause = fault
            yield wait_s

    def _request(self, method: str, path: str, fields: dict[str, Any] | None, timeout_s: float) -> httpx.Request:
        headers = dict(self._headers, Accept=f"{self._media_type if fields else wire.JSON}, application/problem+json")
        content = None
        if fields is not None:
            headers["Content-Type"] = self._media_type
            content = wire.encode(fields, self._media_type)
        timeout = httpx.Timeout(timeout_s).as_dict()
        return httpx.Request(method, self.url + path, headers=headers, content=content, extensions={"timeout": timeout})

    def _body(self, response: httpx.Response) -> Any:
        try:
            return wire.decode(response.content, response.headers.get("Content-Type", ""))
        except ValueError as error:
            raise InvalidReply(f"from {response.url}: {error}", status=response.status_code) from error

    def _too_late(self, attempts: int, fields: Mapping[str, Any] | None) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"no action by the deadline after {attempts} attempt(s)", request_id=(fields or {}).get("request_id")
        )

    def _fault(self, outcome: Outcome) -> SorlError:
        """The error of an attempt that failed."""
        if isinstance(outcome, httpx.Response):
            return problem(outcome)
        if isinstance(outcome, BROKEN_CONNECTION):
            return ConnectionFailed(f"no connection to {self.url}: {_message(outcome)}", retryable=True)
        return ConnectionFailed(f"no reply from {self.url}: {_message(outcome)}")


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
    elif 400 <= status < 500:
        kind = REFUSALS.get(str(code), RequestRefused)
    detail = fields.get("detail") or fields.get("title") or response.reason_phrase
    field, request_id = fields.get("field"), fields.get("request_id")
    return kind(
        str(detail),
        code=str(code) if code else None if status in (503, 504) else f"http_{status}",
        status=status,
        field=None if field is None else str(field),
        request_id=None if request_id is None else str(request_id),
        retry_after_s=_retry_after_s(fields.get("retry_after_ms"), response.headers.get("Retry-After")),
        # A 500 or 502 without a code comes from a gateway that lost its server. A retry is safe: requests have no
        # side effects.
        retryable=status == 503 or (status in (500, 502) and not code),
    )


def _retry_after_s(milliseconds: object, header: str | None) -> float | None:
    """Seconds to wait: the milliseconds if given, else the header. A date in the header is ignored, since the clocks
    of both sides may differ. A number beyond a float counts as the largest float, which is beyond anyone's patience."""
    most = parameters.FLOAT_MAX
    if isinstance(milliseconds, int | float) and 0.0 <= milliseconds < float("inf"):
        return min(milliseconds, most) / 1e3
    return min(float(header), most) if header is not None and header.isascii() and header.isdigit() else None


def _message(error: Exception | None) -> str:
    return str(error) or type(error).__name__
