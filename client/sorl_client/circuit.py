"""`CircuitBreaker`: when calls fail at once, because the server has failed too often; and the state of one circuit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sorl_client import parameters
from sorl_client.errors import CircuitOpen


@dataclass(frozen=True)
class CircuitBreaker:
    """After `failures` failed attempts in a row, calls fail at once with CircuitOpen for `cooldown_s` seconds.

    Then one call probes the server: its answer closes the circuit, its failure opens it for as long again. A failure is
    a broken connection, a 5xx, or no reply in time. A server that answers has not failed, though it refuse the request
    (4xx) or say that the deadline can't be met (504). `ready` and `wait_until_ready` always ask.

    Raises InvalidArgument by a field's name.
    """

    failures: int = 5
    cooldown_s: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "failures", parameters.AT_LEAST_ONE("failures", self.failures))
        object.__setattr__(self, "cooldown_s", parameters.WAIT_S("cooldown_s", self.cooldown_s))


class Attempt:
    """What is known of one attempt: `answered` is None until it has succeeded (True) or failed (False)."""

    def __init__(self) -> None:
        self.answered: bool | None = None


class Circuit:
    """The circuit of one client; without a `breaker` it never opens. Threads may share it."""

    def __init__(self, breaker: CircuitBreaker | None, url: str, clock: Callable[[], float]) -> None:
        self._breaker = breaker
        self._url = url
        self._clock = clock
        self._failed = 0  # in a row
        self._opened: float | None = None  # on the clock
        self._probing = False
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether attempts are refused now, or a probe is under way."""
        return self._opened is not None

    @contextmanager
    def attempt(self) -> Iterator[Attempt]:
        """Within it, one attempt is made, and says whether it was `answered`. Raises CircuitOpen if none may be."""
        probe = self._enter()
        attempt = Attempt()
        try:
            yield attempt
        finally:
            self._leave(probe, attempt.answered)

    def _enter(self) -> bool:
        with self._lock:
            if self._breaker is None or self._opened is None:
                return False
            left_s = max(0.0, self._opened + self._breaker.cooldown_s - self._clock())
            if left_s > 0.0 or self._probing:
                why = f"the next call in {left_s:.3g} s" if left_s > 0.0 else "another call"
                detail = f"{self._url} failed {self._failed} times in a row; {why} will probe it"
                raise CircuitOpen(detail, retry_after_s=left_s, retryable=True)
            self._probing = True
            return True

    def _leave(self, probe: bool, answered: bool | None) -> None:
        if self._breaker is None:
            return
        with self._lock:
            if probe:
                self._probing = False
            if answered:
                self._failed, self._opened = 0, None
            elif answered is False:
                self._failed += 1
                # An attempt from before the circuit opened does not make the cool-down longer.
                if probe or (self._opened is None and self._failed >= self._breaker.failures):
                    self._opened = self._clock()
