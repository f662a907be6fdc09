"""A robot's client: `sorl_client`'s, which sends once a tick, with notes of what came of each request."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bench.openloop import TRANSIT_MS

if TYPE_CHECKING:
    import numpy.typing as npt
    from sorl_client import Action

CONNECT_SECONDS = 10.0
"""The longest wait for the first connection."""


class NotingClient:
    """A client for `sorl_client.ControlLoop`. A refusal is not asked again: the next tick asks anew.

    Attributes:
        granted: (N, M) of every answer.
        latencies_ms: of every answer, from the call to the reply.
        degraded: answers with less compute than was asked for, or first granted.
        failed: requests that ended with another error than a refusal or a missed deadline.
    """

    def __init__(self, url: str) -> None:
        """Raises OSError if there is no server: in an episode, that would be a miss at every tick."""
        from sorl_client import Client, RetryPolicy

        address = urlsplit(url)
        socket.create_connection((address.hostname, address.port), CONNECT_SECONDS).close()
        self._client = Client(url, transit_ms=TRANSIT_MS, retry=RetryPolicy(attempts=1))
        self.granted: list[tuple[int, int]] = []
        self.latencies_ms: list[float] = []
        self.degraded = 0
        self.failed = 0

    def models(self) -> list[dict[str, Any]]:
        """See `sorl_client.Client.models`."""
        return self._client.models()

    def act(self, observation: npt.ArrayLike, **asked: Any) -> Action:
        """See `sorl_client.Client.act`.

        Raises:
            DeadlineExceeded, Overloaded: there is no answer in time.
            SorlError: anything else; it is counted as failed.
        """
        from sorl_client import DeadlineExceeded, Overloaded, SorlError

        try:
            reply = self._client.act(observation, **asked)
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
        self._client.close()
