"""The client's protocol without I/O: builds requests, reads replies, decides on deadlines, retries and hedges.

Each call is a generator. It yields an effect (`Send`, `Receive` or `Pause`) and gets what came of it. `Client` performs
the effects with threads, `AsyncClient` with tasks; all else is shared here.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from urllib.parse import quote

import httpx
import numpy.typing as npt

from sorl_client import observation as observations
from sorl_client import parameters, wire
from sorl_client.action import Action
from sorl_client.circuit import Circuit, CircuitBreaker
from sorl_client.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    InvalidReply,
    NotReady,
    Overloaded,
    RequestRefused,
    ServerFailed,
    SorlError,
    StaleReply,
)
from sorl_client.hedging import Hedge, Hedging
from sorl_client.observation import Observation
from sorl_client.problems import problem
from sorl_client.retry import RetryPolicy
from sorl_client.transit import Transit

T = TypeVar("T")
Outcome = httpx.Response | httpx.RequestError

OnLate = Literal["degrade", "reject"]
# Not ReadTimeout: a retry would add to the load that delays the reply.
BROKEN_CONNECTION = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout, httpx.PoolTimeout)
POLL_S = 0.1
PROBE_S = 1.0  # each question whether a server is ready gets this long, also the last: networks are slow at times
LEAST_TIMEOUT_S = 1e-6  # 0 would make a socket that does not block


@dataclass(frozen=True)
class Send:
    """Send `request`, without waiting for what comes of it."""

    request: httpx.Request


@dataclass(frozen=True)
class Receive:
    """Wait for the next `Arrival` of what this call has sent, or None if the clock comes to `until` before it."""

    until: float


@dataclass(frozen=True)
class Pause:
    """Do nothing for some seconds."""

    seconds: float


class Arrival(NamedTuple):
    """What came of a request. What still comes after the call has ended is dropped."""

    request: httpx.Request
    outcome: Outcome


Effect = Send | Receive | Pause
Exchange = Generator[Effect, Arrival | None, T]


@dataclass
class Call(Generic[T]):
    """One call on its way: what is asked, and what was sent for it.

    read         a reply's result; raises InvalidReply
    started      when the call began, on the client's clock
    end          when it ends
    deadline_ms  the caller's, which set that end: the server is told, and passing it is DeadlineExceeded
    sent         the requests that have no outcome yet, and when each was sent
    attempts     how many requests were sent
    """

    method: str
    path: str
    fields: dict[str, Any] | None
    read: Callable[[httpx.Response], T]
    started: float
    end: float
    deadline_ms: float | None = None
    sent: dict[httpx.Request, float] = field(default_factory=dict)
    attempts: int = 0

    @property
    def deadline(self) -> bool:
        """Whether there is one."""
        return self.deadline_ms is not None


class Conversation:
    """The calls of a client, as generators; it has no connection and does not wait."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None,
        timeout_s: float,
        transit_ms: float,
        retry: RetryPolicy,
        hedge: bool | Hedge,
        breaker: CircuitBreaker | None,
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
        self._transit = Transit(parameters.TRANSIT_MS("transit_ms", transit_ms) / 1e3)
        self._retry = retry
        parameters.kind("hedge", hedge, (bool, Hedge), "a boolean or a Hedge")
        self._hedging = Hedging(hedge if isinstance(hedge, Hedge) else Hedge()) if hedge else None
        parameters.kind("breaker", breaker, (CircuitBreaker, type(None)), "a CircuitBreaker or None")
        self._circuit = Circuit(breaker, self.url, clock)
        self._media_type = media_type
        self._clock = clock
        self._random = random

    def act(
        self,
        observation: Observation,
        *,
        num_candidates: int | None,
        num_steps: int | None,
        deadline_ms: float | None,
        on_late: OnLate,
        min_quality: float | None,
        seed: int | list[int] | None,
        temperature: float | None,
        committed: npt.ArrayLike | None,
        coherence: float | None,
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
        rows = observations.rows_of(observation)
        fields: dict[str, Any] = {"observation": rows, "on_late": on_late, "request_id": request_id}
        optional = {
            "num_candidates": parameters.BUDGET.or_none("num_candidates", num_candidates),
            "num_steps": parameters.BUDGET.or_none("num_steps", num_steps),
            "min_quality": parameters.SHARE.or_none("min_quality", min_quality),
            "seed": parameters.seed("seed", seed),
            "temperature": parameters.TEMPERATURE.or_none("temperature", temperature),
            "committed": None if committed is None else parameters.array("committed", committed),
            "coherence": parameters.SHARE.or_none("coherence", coherence),
            "model": model,
            "model_version": model_version,
            "priority": parameters.PRIORITY.or_none("priority", priority),
            "return_candidates": return_candidates or None,
        }
        fields |= {name: value for name, value in optional.items() if value is not None}
        if self._hedging and "seed" not in fields:
            fields["seed"] = uuid.uuid4().int >> 75  # 53 bits: both answers are of the same noise
        end = started + (self._timeout_s if deadline_ms is None else deadline_ms / 1e3)

        def read(response: httpx.Response) -> Action:
            reply = self._body(response)
            if not isinstance(reply, dict):
                raise InvalidReply(f"expected a map from {response.url}", status=response.status_code)
            if reply.get("request_id") != request_id:
                raise StaleReply(
                    f"sent request_id {request_id}, the reply has {reply.get('request_id')}", request_id=request_id
                )
            latency_ms = (self._clock() - started) * 1e3
            try:
                return Action.from_reply(reply, latency_ms=latency_ms, attempts=call.attempts)
            except (KeyError, TypeError, ValueError) as error:
                fault = f"no field {error}" if isinstance(error, KeyError) else str(error)
                raise InvalidReply(f"from {response.url}: {fault}", request_id=request_id) from error

        call = Call("POST", "/act", fields, read, started, end, deadline_ms)
        return (yield from self._converse(call))

    def models(self) -> Exchange[list[dict[str, Any]]]:
        """GET /models, see `Client.models`."""

        def read(response: httpx.Response) -> list[dict[str, Any]]:
            reply = self._body(response)
            models = reply.get("models") if isinstance(reply, dict) else None
            if not isinstance(models, list) or not all(isinstance(model, dict) and "name" in model for model in models):
                raise InvalidReply(f"no list of models from {response.url}", status=response.status_code)
            return models

        return (yield from self._converse(self._plain_call("GET", "/models", read)))

    def reload(self, name: str) -> Exchange[dict[str, Any]]:
        """POST /models/{name}/reload, see `Client.reload`."""

        def read(response: httpx.Response) -> dict[str, Any]:
            reply = self._body(response)
            if not isinstance(reply, dict) or reply.get("model") != name:
                raise InvalidReply(f"no reload of {name!r} from {response.url}", status=response.status_code)
            return reply

        path = f"/models/{quote(name, safe='')}/reload"
        return (yield from self._converse(self._plain_call("POST", path, read)))

    def ready(self) -> Exchange[bool]:
        """GET /readyz once, see `Client.ready`."""
        return (yield from self._probe(self._timeout_s)) is None

    def wait_until_ready(self, timeout: float) -> Exchange[None]:
        """GET /readyz until it says yes, see `Client.wait_until_ready`."""
        timeout = parameters.TIMEOUT_S("timeout", timeout)
        end = self._clock() + timeout
        while True:
            fault = yield from self._probe(min(self._timeout_s, max(PROBE_S, end - self._clock())))
            if fault is None:
                return
            if self._clock() + POLL_S >= end:
                raise NotReady(f"{self.url} is not ready after {timeout:g} s: {fault.detail}", status=fault.status)
            yield Pause(POLL_S)

    def _probe(self, timeout_s: float) -> Exchange[SorlError | None]:
        end = self._clock() + timeout_s
        yield Send(self._request("GET", "/readyz", None, timeout_s))
        arrival = yield Receive(end)
        if arrival is None:
            return self._no_reply(timeout_s)
        outcome = arrival.outcome
        if isinstance(outcome, httpx.Response) and outcome.is_success:
            return None
        fault = self._fault(outcome, timeout_s)
        if isinstance(fault, RequestRefused):
            raise fault  # waiting can't help: it is another kind of server, or needs another key
        return fault

    def _plain_call(self, method: str, path: str, read: Callable[[httpx.Response], T]) -> Call[T]:
        """A call without fields, and without a deadline."""
        started = self._clock()
        return Call(method, path, None, read, started, started + self._timeout_s)

    def _converse(self, call: Call[T]) -> Exchange[T]:
        """Send until a good answer, at most until `call.end`; returns what `call.read` makes of it."""
        failures, cause = 0, None
        while True:
            request = self._next(call)
            if request is None:
                raise self._too_late(call) from cause
            with self._circuit.attempt() as attempt:
                try:
                    result = yield from self._attempt(call, request)
                    attempt.answered = True
                    return result
                except SorlError as error:
                    fault = error
                    attempt.answered = not _is_failure(error)
            wait_s = self._retry.wait_s(failures, fault.retry_after_s, self._random) if fault.retryable else None
            if wait_s is None or self._circuit.is_open:
                raise fault
            if self._clock() + wait_s + self._reserve_s(call) >= call.end:
                if call.deadline:
                    raise self._too_late(call) from fault
                raise fault
            failures, cause = failures + 1, fault
            yield Pause(wait_s)

    def _attempt(self, call: Call[T], request: httpx.Request) -> Exchange[T]:
        """Send `request`, and once more if its reply is late and hedges are on; returns the first good answer.

        Raises the fault of the last of them, or at once what refuses the request itself.
        """
        first_sent = self._clock()
        yield self._sending(call, request)
        hedge_at = call.end
        # One hedge a call at most, and none beside retries: those are for servers that answer, and refuse.
        if self._hedging and call.fields is not None and call.attempts == 1:
            after_s = self._hedging.begin()
            hedge_at = call.end if after_s is None else min(first_sent + after_s, call.end)
        while True:
            arrival = yield Receive(hedge_at)
            if arrival is not None:
                try:
                    return self._answer(call, arrival, first_sent)
                except RequestRefused:
                    raise
                except SorlError:
                    if not call.sent:  # else the other answer may still be good
                        raise
            elif hedge_at < call.end:
                hedge_at = call.end
                second = self._next(call, hedge=True)
                if second is not None:
                    yield self._sending(call, second)
            elif call.deadline:
                self._transit.missed(call.end - first_sent)
                raise self._too_late(call)
            else:
                raise self._no_reply(call.end - call.started)

    def _next(self, call: Call[T], hedge: bool = False) -> httpx.Request | None:
        """The next request of `call`, or None if too little time is left, or no hedge is due to it."""
        fields, left_s = call.fields, call.end - self._clock()
        if fields is not None and call.deadline:
            reserve_s = self._reserve_s(call)
            if left_s <= reserve_s:
                if not call.attempts:
                    self._transit.refused(left_s)
                return None
            fields = fields | {"deadline_ms": (left_s - reserve_s) * 1e3}
        if hedge and not (self._hedging and self._hedging.take()):
            return None
        return self._request(call.method, call.path, fields, max(left_s, LEAST_TIMEOUT_S))

    def _sending(self, call: Call[T], request: httpx.Request) -> Send:
        call.sent[request] = self._clock()
        call.attempts += 1
        return Send(request)

    def _answer(self, call: Call[T], arrival: Arrival, first_sent: float) -> T:
        """What `arrival` brings; its times are learnt from. Raises its fault."""
        sent, now, outcome = call.sent.pop(arrival.request), self._clock(), arrival.outcome
        reply = outcome if isinstance(outcome, httpx.Response) and outcome.is_success else None
        late = call.deadline and now > call.end
        if reply is not None:
            result = call.read(reply)
            if isinstance(result, Action):
                self._transit.replied(now - sent, result.timing_ms.get("total", math.nan) / 1e3)
                if self._hedging and not late:
                    self._hedging.replied(now - first_sent)
            if not late:
                return result
        if late or (call.deadline and isinstance(outcome, httpx.TimeoutException)):
            if reply is None:
                self._transit.missed(call.end - sent)
            raise self._too_late(call) from (outcome if isinstance(outcome, Exception) else None)
        if call.deadline and isinstance(outcome, httpx.Response) and reply is None:
            self._transit.turned_down(now - sent)
        raise self._fault(outcome, call.end - call.started)

    def _reserve_s(self, call: Call[T]) -> float:
        return self._transit.reserve_s() if call.deadline else 0.0

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

    def _too_late(self, call: Call[T]) -> DeadlineExceeded:
        request_id = (call.fields or {}).get("request_id")
        fault = f"no action by the deadline after {call.attempts} attempt(s)"
        # The unit, as the server says it: who calls may have thought in seconds.
        unit = f"(deadline_ms was {call.deadline_ms:g}, in milliseconds)"
        return DeadlineExceeded(f"{fault} {unit}", request_id=request_id)

    def _no_reply(self, timeout_s: float) -> ConnectionFailed:
        return ConnectionFailed(f"no reply from {self.url} within {timeout_s:g} s")

    def _fault(self, outcome: httpx.Response | Exception, timeout_s: float) -> SorlError:
        """The error of an attempt that failed."""
        if isinstance(outcome, httpx.Response):
            return problem(outcome)
        if isinstance(outcome, BROKEN_CONNECTION):
            return ConnectionFailed(f"no connection to {self.url}: {_message(outcome)}", retryable=True)
        if isinstance(outcome, httpx.TimeoutException):
            return self._no_reply(timeout_s)
        return ConnectionFailed(f"no reply from {self.url}: {_message(outcome)}")


def _is_failure(fault: SorlError) -> bool:
    """Whether the server failed, or can't be reached; see `CircuitBreaker`."""
    if isinstance(fault, DeadlineExceeded):
        return fault.code != DeadlineExceeded.default_code or fault.status is None
    return isinstance(fault, ConnectionFailed | ServerFailed | Overloaded | NotReady)


def _message(error: Exception) -> str:
    return str(error) or type(error).__name__
