"""Server processes: start, wait until ready, measure memory, stop. Their output goes to a temporary file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.protocols import ServerAddress

ROOT = Path(__file__).parent.parent
START_SECONDS = 600.0
"""The longest wait for a server to become ready: its first start may compile."""
STOP_SECONDS = 60.0
"""The longest wait for a server to end, draining included."""

NO_GRACE = ("--drain-grace-seconds", "0")
"""Flags of our server that end it without the grace period, for callers that stop it after their load."""

Ready = Callable[[str], str | None]
"""The server's output so far -> its URL once it is ready, None before."""


class ServerProcess:
    """A server process that runs until `stop`. It has its own process session, so that `stop` also ends its workers.

    Attributes:
        url: its URL, once `wait_until_ready` has returned.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._name = command[2] if command[1:2] == ["-m"] else command[0]
        # A peer's virtual environment has its framework, but not this project.
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `stop`
        self._process = subprocess.Popen(
            command,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path, **(environment or {})},
        )
        self.url = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> str:
        """Its output so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def wait_until_ready(self, ready: Ready, seconds: float = START_SECONDS) -> str:
        """Wait until `ready` returns the server's URL, and return it.

        Raises:
            RuntimeError: the server ended, logged that it stays not ready, or took longer than `seconds`. The message
                has the end of its log.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if url := ready(self.log()):
                self.url = url
                return url
            if self._process.poll() is not None or "stays not ready" in self.log():
                break
            time.sleep(0.02)
        words = "\n".join(self.log().splitlines()[-20:])
        raise RuntimeError(f"{self._name} did not become ready:\n{words}")

    def stop(self) -> tuple[int, str]:
        """Send SIGTERM and wait; then kill its remaining processes. Returns the exit status and the whole output."""
        self._process.terminate()
        try:
            status = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            status = -signal.SIGKILL
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        log = self.log()
        self._log.close()
        return status, log


def sorl_serve(model: Path, *flags: str, port: int = 0) -> list[str]:
    """The command that starts our server; port 0 takes a free one."""
    return [sys.executable, "-m", "service.cli", "--model", str(model), "--port", str(port), *flags]


def sorl_serve_ready(log: str) -> str | None:
    """`Ready` for our server, from the log lines "listening on" and "ready"."""
    found = re.search(r"listening on (http://\S+:\d+)", log)
    return found[1] if found and re.search(r"\bready: ", log) else None


@contextmanager
def serving(
    command: Sequence[str], ready: Ready = sorl_serve_ready, environment: Mapping[str, str] | None = None
) -> Iterator[ServerProcess]:
    """Context manager: starts a server, waits until it is ready, and stops it at the end."""
    server = ServerProcess(command, environment)
    try:
        server.wait_until_ready(ready)
        yield server
    finally:
        server.stop()


def addresses(server: ServerProcess) -> ServerAddress:
    """Where our server, which is ready, listens for each protocol."""
    log = server.log()
    zeromq, grpc = (re.search(rf"listening on ({scheme}://\S+:\d+)", log) for scheme in ("tcp", "grpc"))
    return ServerAddress(
        server.url, f"ws{server.url.removeprefix('http')}/openpi", zeromq and zeromq[1], grpc and grpc[1]
    )


def cpu_seconds(pid: int) -> float:
    """CPU time of a process's threads so far, to the nanosecond; without threads that have ended."""
    tasks = [int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(tasks) / 1e9


def memory_mib(pid: int) -> float:
    """Memory of a process and its descendants in MiB: the proportional set size, so shared pages count once."""
    kib, waiting = 0, [pid]
    while waiting:
        found = waiting.pop()
        with suppress(OSError):  # the process has ended
            rollup = Path(f"/proc/{found}/smaps_rollup").read_text()
            kib += int(re.findall(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[0])
            for children in Path(f"/proc/{found}/task").glob("*/children"):
                waiting += map(int, children.read_text().split())
    return kib / 1024
