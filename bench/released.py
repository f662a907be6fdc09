"""Run the released JAX code in another process, with a Python that has its requirements. See `released_driver`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Ask = Callable[[str], dict[str, Any]]
"""Sends a command line to `released_driver.py` and returns its JSON reply."""


@contextmanager
def released_code(
    checkout: Path | None, python: Path, *, hidden: tuple[int, ...], batch: int, obs_dim: int, action_dim: int
) -> Iterator[Ask | None]:
    """Context manager: starts the released code with networks and data of these sizes. None without a checkout.

    Raises (on use):
        ChildProcessError: the process ended; its message is on standard error.
    """
    if checkout is None:
        yield None
        return
    sizes = {"hidden": list(hidden), "batch": batch, "obs_dim": obs_dim, "action_dim": action_dim}
    driver = Path(__file__).with_name("released_driver.py")
    command = [str(python), str(driver), str(checkout), json.dumps(sizes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asking, answering = process.stdin, process.stdout

        def ask(line: str) -> dict[str, Any]:
            asking.write(f"{line}\n")
            asking.flush()
            if not (reply := answering.readline()):
                raise ChildProcessError("the released code's process ended; its message is above")
            answer: dict[str, Any] = json.loads(reply)
            return answer

        try:
            yield ask
        finally:
            process.terminate()
