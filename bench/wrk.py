"""Closed-loop load by wrk (Debian's package): each client sends its next request when it has the last response."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("wrk.lua")


def require_wrk() -> None:
    """Raise FileNotFoundError if wrk is not installed."""
    if shutil.which("wrk") is None:
        raise FileNotFoundError("wrk is not installed (Debian: apt-get install wrk)")


def load(url: str, body: Path, clients: int, seconds: float) -> dict[str, float]:
    """Load POST /act for `seconds`, with all clients in one thread.

    Returns:
        requests, seconds, p50_ms, p99_ms and failed: broken connections, timeouts, and responses other than 2xx.
    """
    done = subprocess.run(**_command(url, body, clients, seconds), capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


@contextmanager
def background(url: str, body: Path, clients: int) -> Iterator[None]:
    """Context manager: loads POST /act until the end of the block."""
    with subprocess.Popen(**_command(url, body, clients, 3600), stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def _command(url: str, body: Path, clients: int, seconds: float) -> dict[str, Any]:
    whole = max(1, round(seconds))  # wrk takes whole seconds only
    command = ["wrk", "-t1", f"-c{clients}", f"-d{whole}s", "--timeout", "10s", "-s", str(SCRIPT), f"{url}/act"]
    return {"args": command, "env": os.environ | {"SORL_WRK_BODY": str(body)}}
