"""`Transit`: how much of a deadline the network needs, measured."""

from __future__ import annotations

import math
import threading
from collections import deque

WINDOW = 64  # replies: about three seconds of a robot at 20 Hz
MOST_OF_A_DEADLINE = 0.75  # what a guess leaves the server is little, but enough for an answer that can be measured


class Transit:
    """The time to keep back from a deadline for the network, in seconds. Threads may share it.

    It is the second largest of the last 64 transits, and at least `floor_s`. A transit is a reply's time at the client
    less the time that the server says it spent. One outlier in 64, such as the first call's TCP and TLS handshakes,
    doesn't count.

    A reply that comes after its deadline can't be measured. Each such miss doubles a guess, which holds until the next
    reply: a network that has become slow is so found out. A guess is at most three quarters of the deadline.

    A refusal does not say how long the server took over it, but the network took no longer than the whole. A guess is
    at most that: it would else outlast refusals for too short a deadline, and be their cause.

    A call that is refused because its deadline is too short forgets the largest transit. An estimate beyond every
    deadline would else never be corrected.
    """

    def __init__(self, floor_s: float) -> None:
        self._floor_s = floor_s
        self._guess_s = 0.0
        self._measured_s: deque[float] = deque(maxlen=WINDOW)
        self._lock = threading.Lock()

    def reserve_s(self) -> float:
        """Seconds to keep back now."""
        with self._lock:
            return self._reserve_s()

    def replied(self, seconds: float, server_s: float) -> None:
        """A reply came after `seconds`, of which the server says it spent `server_s`; nonsense is ignored."""
        if not (math.isfinite(seconds) and 0.0 <= server_s <= seconds):
            return
        with self._lock:
            self._measured_s.append(seconds - server_s)
            self._guess_s = 0.0

    def turned_down(self, seconds: float) -> None:
        """The server answered with an error after `seconds`."""
        with self._lock:
            self._guess_s = min(self._guess_s, max(0.0, seconds))

    def missed(self, deadline_s: float) -> None:
        """No reply came within `deadline_s` seconds of sending, though the server was told to be ready earlier."""
        with self._lock:
            self._guess_s = max(self._guess_s, min(2.0 * self._reserve_s(), MOST_OF_A_DEADLINE * deadline_s))

    def refused(self, deadline_s: float) -> None:
        """Nothing was sent, because `deadline_s` seconds were left, and more had to be kept back."""
        if deadline_s <= self._floor_s:
            return
        with self._lock:
            self._guess_s = 0.0
            if self._measured_s:
                self._measured_s.remove(max(self._measured_s))

    def _reserve_s(self) -> float:
        measured = sorted(self._measured_s)[-2:]
        return max(self._floor_s, self._guess_s, measured[0] if measured else 0.0)
