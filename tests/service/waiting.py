"""Waiting for what has no event of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

WAIT = 30  # seconds until a wait for something that must come is called a failure


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop turn until `condition()` holds."""
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0)
