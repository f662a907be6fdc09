"""The Ray task of one run: starts a child process that does the work, and ends when it ends.

The work is not done in the Ray worker, for three reasons. Ray reuses workers, so a run would inherit the torch state
of the one before. Ray starts workers with SIGINT blocked and handles SIGTERM itself, but a training needs both to save.
And a crash of native code or the kernel's out-of-memory killer ends the child alone, whose exit status says what
happened.

`ray.cancel` arrives here as KeyboardInterrupt. The child is told to stop by closing its standard input. That also
happens when this worker is killed, so no training outlives its task.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import training
from training.files import read_json

INTERRUPTED = 75
"""Exit status of a child that saved and stopped because it was told to (EX_TEMPFAIL of sysexits.h)."""

GRACE_SECONDS = 120.0  # for a child that was told to stop: to end one update and save


class ChildKilled(RuntimeError):
    """A signal ended the child: a crash, or the out-of-memory killer. Another attempt may succeed."""


def run_in_child(folder: str) -> tuple[str, str]:
    """Run the folder's run.json in a child process until it ends.

    Returns:
        A state and an error: ("finished", ""), ("failed", why) or ("interrupted", "").

    Raises:
        ChildKilled: a signal ended the child.
    """
    # A shell script's `&` starts Ray with SIGINT ignored. Workers inherit that, and cancelling would do nothing.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    path = Path(folder)
    if not (path / "run.json").exists():
        return "failed", f"{path} is not visible on {socket.gethostname()}: --out must be on a shared file system"
    status = _run_child(path)
    if status == 0:
        return "finished", ""
    if status == INTERRUPTED:
        return "interrupted", ""
    if status < 0:
        raise ChildKilled(f"killed by {signal.Signals(-status).name} on {socket.gethostname()}; see {path / 'log.txt'}")
    return "failed", read_error(path)


def _run_child(folder: Path) -> int:
    """Run the child. Returns its exit status; negative if a signal from elsewhere ended it."""
    command = [sys.executable, "-m", "training.sweep.child", str(folder)]
    root = str(Path(training.__file__).parents[1])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
        "PYTHONUNBUFFERED": "1",
        "TQDM_MININTERVAL": "30",  # seconds between lines of a progress bar in log.txt
    }
    with (folder / "log.txt").open("ab") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    status: int | None = None
    try:
        while status is None:
            with suppress(subprocess.TimeoutExpired):  # a wait without timeout would not see Ray's KeyboardInterrupt
                status = child.wait(timeout=1.0)
    except KeyboardInterrupt:
        assert child.stdin is not None
        child.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_SECONDS)
        return INTERRUPTED
    finally:
        if status != 0:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # the worker processes of an evaluation, if the child was killed
            child.wait()
    return status


def read_error(folder: Path) -> str:
    """Why the latest attempt in `folder` failed, in one line."""
    error = read_json(folder / "error.json")
    if error is None:
        return f"ended without an error message; see {folder / 'log.txt'}"
    return f"{error['type']}: {error['message']}"
