"""What a reply costs after its compute: waking the event loop, encoding, handing to the socket."""

from __future__ import annotations

SHARE = 0.9  # of replies are done within the reserve
STEP = 0.05
LEAST, MOST = 0.0002, 0.05  # seconds


class Reserve:
    """Seconds that a deadline must leave after compute: a running quantile of what replies took.

    Each reply moves it by a fixed factor, up if it took longer and, so that `SHARE` of them don't, down by less if it
    took less. So it follows a busy event loop, and one slow reply changes little. Of the event loop only.
    """

    def __init__(self) -> None:
        self.seconds = 0.001

    def observe(self, seconds: float) -> None:
        """A reply took `seconds` from the end of its compute."""
        moved = self.seconds * (1 + STEP * (SHARE if seconds > self.seconds else SHARE - 1))
        self.seconds = min(max(moved, LEAST), MOST)
