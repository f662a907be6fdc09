"""The Ray task of one run: keeps a child process that does the work, and ends when it ends.

Why a process of its own and not the Ray worker's. Ray reuses workers: a run would inherit the torch state of the one
before. Ray starts workers with SIGINT blocked and handles SIGTERM itself, whereas a training wants both to be
able to save. And a crash of native code or the kernel's out-of-memory killer then ends the child, whose exit status
says what happened, instead of a worker.

`ray.cancel` arrives here as KeyboardInterrupt. Closing the child's standard input is how it is told to stop, because
that also happens when this worker is killed: no training outlives its task unnoticed.
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

GRACE_SECONDS = 120.0  # for a child that was told to stop: one update, and saving


class ChildKilled(RuntimeError):
    """A signal ended the child: a crash or the out-of-memory killer. Worth another attempt."""


def run_in_child(folder: str) -> tuple[str, str]:
    """Run the folder's run.json to its end.

    Returns:
        "finished" and ""; "failed" and why; or "interrupted" and "".

    Raises:
        ChildKilled: see there.
    """
    # A shell script's `&` starts Ray with SIGINT ignored, which its workers inherit: cancelling would do nothing.
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
    """Exit status of the child; negative if a signal ended it that nobody here sent."""
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
            with suppress(subprocess.TimeoutExpired):  # an endless wait would not see Ray's KeyboardInterrupt
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
                os.killpg(child.pid, signal.SIGKILL)  # an evaluation's processes, where the child was killed
            child.wait()
    return status


def read_error(folder: Path) -> str:
    """Why the latest attempt failed, in one line."""
    error = read_json(folder / "error.json")
    if error is None:
        return f"ended without a word; see {folder / 'log.txt'}"
    return f"{error['type']}: {error['message']}"
