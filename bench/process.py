"""Servers as processes: started, awaited, measured and ended. Their output goes to a file that nobody has to read."""

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

ROOT = Path(__file__).parent.parent
START_SECONDS = 600.0
"""Longest wait for a server to be ready: the first start may compile."""
STOP_SECONDS = 60.0
"""Longest wait for a server to end, draining included."""

NO_GRACE = ("--drain-grace-seconds", "0")
"""Of our server: for those who stop it when their load is over."""

Ready = Callable[[str], str | None]
"""What the server has written so far -> its address once it is ready, None before."""


class ServerProcess:
    """A server that runs until `stop`, in a session of its own so that its workers end with it.

    Attributes:
        url: its address, once `wait_until_ready` has returned.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._name = command[2] if command[1:2] == ["-m"] else command[0]
        # A peer's own environment has its framework, and not this project.
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
        """All it has written."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def wait_until_ready(self, ready: Ready, seconds: float = START_SECONDS) -> str:
        """Its address, once `ready` knows it.

        Raises:
            RuntimeError: it ended, said that it never will be, or took too long; the message has its last words.
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
        """SIGTERM, and wait. (exit status, everything it wrote); what is left of its processes is killed."""
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
    """The command of our server; port 0 takes a free one."""
    return [sys.executable, "-m", "service.cli", "--model", str(model), "--port", str(port), *flags]


def sorl_serve_ready(log: str) -> str | None:
    """`Ready` of our server, which says where it listens and when it has warmed up."""
    found = re.search(r"listening on (http://\S+:\d+)", log)
    return found[1] if found and re.search(r"\bready: ", log) else None


@contextmanager
def serving(
    command: Sequence[str], ready: Ready = sorl_serve_ready, environment: Mapping[str, str] | None = None
) -> Iterator[ServerProcess]:
    """A server that is ready, and is ended with the block."""
    server = ServerProcess(command, environment)
    try:
        server.wait_until_ready(ready)
        yield server
    finally:
        server.stop()


def memory_mib(pid: int) -> float:
    """Memory of a process and its descendants: proportional set size, so that shared pages count once. MiB."""
    kib, waiting = 0, [pid]
    while waiting:
        found = waiting.pop()
        with suppress(OSError):  # it has ended meanwhile
            rollup = Path(f"/proc/{found}/smaps_rollup").read_text()
            kib += int(re.findall(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[0])
            for children in Path(f"/proc/{found}/task").glob("*/children"):
                waiting += map(int, children.read_text().split())
    return kib / 1024
