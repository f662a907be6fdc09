"""The state of one server: warming up -> ready, or failed; draining at its end."""

from __future__ import annotations

import asyncio
from typing import Literal

from service.errors import InternalError, NotReady


class Lifecycle:
    """Says whether requests can be computed and whether new clients are welcome. Belongs to the event loop.

    Attributes:
        state: "failed" after a warm-up that raised, or once the engine is lost.
        draining: new clients are sent elsewhere; requests are still served.
        broken: why only a restart helps; None while the engine is intact.
    """

    def __init__(self) -> None:
        self.state: Literal["warming up", "ready", "failed"] = "warming up"
        self.draining = False
        self.broken: str | None = None
        self._settled = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Are new clients welcome?"""
        return self.state == "ready" and not self.draining

    def check_alive(self) -> None:
        """Raises InternalError once only a restart helps."""
        if self.broken is not None:
            raise InternalError(self.broken)

    def check_serving(self) -> None:
        """Raises NotReady unless requests can be computed. They can during a drain."""
        if self.state == "failed":
            raise NotReady(
                f"not ready: {self.broken or 'warm-up failed'}; the server's log says why", retry_after_ms=1000
            )
        if self.state == "warming up":
            raise NotReady("not ready: warming up", retry_after_ms=1000)

    def check_ready(self) -> None:
        """Raises NotReady unless new clients are welcome."""
        self.check_serving()
        if self.draining:
            raise NotReady("not ready: draining", retry_after_ms=1000)

    async def settled(self) -> None:
        """Wait until warm-up has ended, well or badly."""
        await self._settled.wait()

    def warmed_up(self, *, ok: bool) -> None:
        """Warm-up has ended."""
        self.state = "ready" if ok and self.broken is None else "failed"
        self._settled.set()

    def lose_engine(self, why: str) -> None:
        """The engine is lost to this process."""
        self.broken = why
        self.warmed_up(ok=False)
