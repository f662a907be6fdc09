"""`Hedge`: when a slow request is sent a second time; and what that depends on."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass

from sorl_client import parameters

WINDOW = 128  # replies
LEAST_REPLIES = 20  # fewer have no 95th percentile
QUANTILE = 0.95
BURST = 5.0  # hedges in a row, after a time without


@dataclass(frozen=True)
class Hedge:
    """Send a request a second time if its reply is late; the first good answer wins.

    after_ms  wait this long for the first; None is the 95th percentile of the last 128 replies, once there are 20
    share     at most this share of calls is hedged, so that a server that is slow for all is not asked twice by all

    Raises InvalidArgument by a field's name.
    """

    after_ms: float | None = None
    share: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "after_ms", parameters.AFTER_MS.or_none("after_ms", self.after_ms))
        object.__setattr__(self, "share", parameters.SHARE("share", self.share))


class Hedging:
    """What a client's hedges depend on: reply times, and how many calls may still be hedged. Threads may share it.

    Every call adds `share` to an account of at most `BURST`, and a hedge takes 1 from it.
    """

    def __init__(self, hedge: Hedge) -> None:
        self._hedge = hedge
        self._account = 0.0
        self._replies_s: deque[float] = deque(maxlen=WINDOW)
        self._lock = threading.Lock()

    def begin(self) -> float | None:
        """A call begins. Returns the seconds after which to hedge it, or None if that is not known yet."""
        with self._lock:
            self._account = min(self._account + self._hedge.share, max(BURST, self._hedge.share))
            if self._hedge.after_ms is not None:
                return self._hedge.after_ms / 1e3
            if len(self._replies_s) < LEAST_REPLIES:
                return None
            return sorted(self._replies_s)[math.ceil(QUANTILE * len(self._replies_s)) - 1]

    def take(self) -> bool:
        """Whether a call may be hedged now; if so, it counts as hedged."""
        with self._lock:
            # Ten times 0.1 is a little less than 1.
            if self._account < 1.0 - 1e-9:
                return False
            self._account -= 1.0
            return True

    def replied(self, seconds: float) -> None:
        """A call had its answer `seconds` after its first send: for a hedged call, less than the slow one takes."""
        with self._lock:
            self._replies_s.append(seconds)
