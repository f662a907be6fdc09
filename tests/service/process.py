"""`sorl-serve` as a process, for tests."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

WAIT = 60
SERVE = ("-m", "service.cli")


class Process:
    """A running `sorl-serve`. Its log is read line by line, so that waits end when a line comes.

    Args:
        arguments: of the command.
        program: what `python` runs.
        python: the interpreter.
        folder: working directory; None: the test's.
        port: to listen on; 0 is a free one. A server that ended may be followed by one on its port.
        environment: variables to set.
    """

    def __init__(
        self,
        *arguments: str,
        program: tuple[str, ...] = SERVE,
        python: str = sys.executable,
        folder: Path | None = None,
        port: int = 0,
        **environment: str,
    ) -> None:
        self.process = subprocess.Popen(
            [python, *program, *arguments, "--port", str(port), "--threads", "1"],
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, **environment},
        )
        self.log: list[str] = []
        self.port = int(self.wait_for(r"listening on https?://127\.0\.0\.1:(\d+)"))

    def wait_for(self, pattern: str) -> str:
        with self._patience() as lines:
            for line in lines:
                self.log.append(line)
                if match := re.search(pattern, line):
                    return match[match.lastindex or 0]
        raise AssertionError(f"no {pattern!r} in\n{''.join(self.log)}")

    @contextmanager
    def _patience(self) -> Iterator[IO[str]]:
        """Its log, which ends when the process does: after `WAIT` seconds at the latest."""
        assert self.process.stderr is not None
        timer = threading.Timer(WAIT, self.process.kill)
        timer.start()
        try:
            yield self.process.stderr
        finally:
            timer.cancel()

    def request(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        try:
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def end(self) -> int:
        """The exit status, once it has ended by itself."""
        with self._patience() as lines:
            self.log += lines
            return self.process.wait()


@contextmanager
def served(*arguments: str, program: tuple[str, ...] = SERVE, **options: Any) -> Iterator[Process]:
    running = Process(*arguments, program=program, **options)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait()
        assert running.process.stderr is not None
        running.process.stderr.close()
