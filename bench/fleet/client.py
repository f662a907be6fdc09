"""A robot's connection to POST /act: one request a tick, and notes of what came of each."""

from __future__ import annotations

import http.client
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bench.openloop import TRANSIT_MS

if TYPE_CHECKING:
    import numpy.typing as npt
    from sorl_client import Action

TIMEOUT_SECONDS = 10.0
"""The longest wait for a connection, or for an answer without a deadline."""


class NotingClient:
    """A client for `sorl_client.ControlLoop`, with one connection.

    It keeps back from a deadline what `sorl_client` does, and differs from it in two points. A refusal is not asked
    again: the next tick asks anew. And a refusal counts as a measurement of the network, where `sorl_client` takes it
    as an upper bound of a guess.

    Attributes:
        granted: (N, M) of every answer.
        latencies_ms: of every answer, from the call to the reply.
        degraded: answers with less compute than was asked for, or first granted.
        failed: requests that ended with another error than a refusal or a missed deadline.
    """

    def __init__(self, url: str) -> None:
        from sorl_client.transit import Transit

        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_SECONDS)
        self._connection.connect()
        self._transit = Transit(TRANSIT_MS / 1e3)
        self.granted: list[tuple[int, int]] = []
        self.latencies_ms: list[float] = []
        self.degraded = 0
        self.failed = 0

    def models(self) -> list[dict[str, Any]]:
        raise NotImplementedError("the loop is told all that it needs")

    def act(self, observation: npt.ArrayLike, *, deadline_ms: float | None = None, **asked: Any) -> Action:
        """See `sorl_client.Client.act`.

        Raises:
            DeadlineExceeded, Overloaded: there is no answer in time.
            SorlError: anything else; it is counted as failed.
        """
        from sorl_client import DeadlineExceeded, Overloaded, SorlError

        try:
            reply = self._ask({"observation": observation, **asked}, deadline_ms)
        except (DeadlineExceeded, Overloaded):
            raise
        except SorlError:
            self.failed += 1
            raise
        self.granted.append((reply.num_candidates, reply.num_steps))
        self.latencies_ms.append(reply.latency_ms)
        self.degraded += bool(reply.degraded)
        return reply

    def close(self) -> None:
        self._connection.close()

    def _ask(self, fields: dict[str, Any], deadline_ms: float | None) -> Action:
        import httpx
        from sorl_client import Action, ConnectionFailed, DeadlineExceeded, InvalidReply, wire
        from sorl_client.conversation import problem

        began, limit_s = time.monotonic(), TIMEOUT_SECONDS
        if deadline_ms is not None:
            limit_s = deadline_ms / 1e3
            left_s = limit_s - self._transit.reserve_s()
            if left_s <= 0:
                self._transit.refused(limit_s)
                raise DeadlineExceeded(f"the {deadline_ms:g} ms left are less than the network takes")
            fields = fields | {"deadline_ms": left_s * 1e3}
        body = wire.encode({name: value for name, value in fields.items() if value is not None})
        try:
            if self._connection.sock is None:
                self._connection.connect()
            self._connection.sock.settimeout(limit_s)
            self._connection.request("POST", "/act", body, {"Content-Type": wire.MSGPACK, "Accept": wire.MSGPACK})
            response = self._connection.getresponse()
            content = response.read()
        except TimeoutError:
            self._connection.close()
            self._transit.missed(limit_s)
            raise DeadlineExceeded(f"no answer within {limit_s * 1e3:g} ms") from None
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ConnectionFailed(f"no answer: {error or type(error).__name__}") from error
        seconds = time.monotonic() - began
        kind = response.getheader("Content-Type", "")
        if response.status != 200:
            self._transit.replied(seconds, 0.0)
            raise problem(httpx.Response(response.status, headers={"Content-Type": kind}, content=content))
        try:
            action = Action.from_reply(wire.decode(content, kind), latency_ms=seconds * 1e3, attempts=1)
            self._transit.replied(seconds, action.timing_ms["total"] / 1e3)
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidReply(f"the answer can't be read: {error}", status=200) from error
        return action
