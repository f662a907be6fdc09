"""Who asks: the holder of a key, and what its limits leave at this moment."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from service.access.keys import UNLIMITED, Limits
from service.access.token_bucket import TokenBucket
from service.errors import BudgetTooLarge, RateLimited

BURST_SECONDS = 1.0
"""A key that rested may spend this many seconds' worth at once."""


class Caller:
    """The holders of one key, who share its limits. Belongs to the event loop.

    Args:
        name: of the key; None: whoever asks where no key is wanted.
        limits: what they may spend.
        clock: seconds.
    """

    __slots__ = ("_requests", "_rows", "limits", "name")

    def __init__(
        self, name: str | None, limits: Limits = UNLIMITED, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.limits = limits
        requests, rows = limits
        # Less than one request a second is still one at a time.
        self._requests = None if requests is None else TokenBucket(requests, max(1.0, requests * BURST_SECONDS), clock)
        self._rows = None if rows is None else TokenBucket(rows, rows * BURST_SECONDS, clock)

    @property
    def most_rows(self) -> float:
        """The most network rows of one request."""
        return math.inf if self._rows is None else self._rows.burst

    def spend_request(self) -> None:
        """One request. Raises RateLimited if there have been too many."""
        if self._requests is not None:
            self._check(self._requests, 1, "requests_per_second", "requests")
            self._requests.take(1)

    def check_rows(self, rows: int) -> None:
        """Raises RateLimited unless `rows` network rows are left; BudgetTooLarge if there are never so many."""
        if self._rows is None:
            return
        if rows > self.most_rows:
            raise BudgetTooLarge(
                f"num_candidates: expected at most {self.most_rows:g} network rows (observations x candidates), "
                f"what this server's key {self.name!r} may spend at once; this request has {rows}",
                field="num_candidates",
            )
        self._check(self._rows, rows, "rows_per_second", "network rows (observations x candidates)")

    def spend_rows(self, rows: int) -> None:
        """Spend what `check_rows` has let pass."""
        if self._rows is not None:
            self._rows.take(rows)

    def _check(self, bucket: TokenBucket, amount: float, limit: str, what: str) -> None:
        wait = bucket.wait(amount)
        if wait:
            raise RateLimited(
                f"the key {self.name!r} may spend {bucket.rate:g} {what} a second ({limit})",
                retry_after_ms=math.ceil(wait * 1000 + 0.001),  # whoever comes then is not early by a rounding error
                reason=limit,
            )


ANYONE = Caller(None)
