"""Start and stop Ray Serve with the shipped configuration, on its own local Ray instance."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

ROOT = Path(__file__).parent.parent
START_SECONDS, STOP_SECONDS, POLL_SECONDS = 120, 60, 0.2


@dataclass(frozen=True)
class RayServe:
    """A running Ray Serve: its URL, and the id of its root process."""

    url: str
    pid: int


@contextlib.contextmanager
def ray_serving(arguments: dict[str, Any]) -> Iterator[RayServe]:
    """Context manager: `serve run` of deploy/ray/serve.yaml on its own local Ray and a free port, until ready.

    Args:
        arguments: arguments of `deploy.ray.application.build`, in place of the file's.

    Raises:
        ChildProcessError: it did not become ready; the message has its log.
    """
    configuration = yaml.safe_load((ROOT / "deploy" / "ray" / "serve.yaml").read_text())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration["http_options"] |= {"host": "127.0.0.1", "port": port}
    (application,) = configuration["applications"]
    application["args"] = arguments
    del application["runtime_env"]
    environment = os.environ | {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0"}
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder) / "serve.yaml", Path(folder) / "log.txt"
        file.write_text(yaml.safe_dump(configuration))
        command = [sys.executable, "-m", "ray.serve.scripts", "run", "--app-dir", str(ROOT), str(file)]
        with (
            log.open("w") as output,
            subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT) as process,
        ):
            try:
                if not _becomes_ready(url, process):
                    raise ChildProcessError(f"Ray Serve is not ready after {START_SECONDS} s:\n{log.read_text()}")
                yield RayServe(url, process.pid)
            finally:
                process.send_signal(signal.SIGINT)  # ends the replicas first, and waits for them
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()


def _becomes_ready(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until /readyz succeeds; before, Ray's proxy refuses connections or answers 404.

    Returns False if the process ends or START_SECONDS pass.
    """
    end = time.monotonic() + START_SECONDS
    with httpx.Client(timeout=START_SECONDS) as client:
        while time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError):
                if client.get(f"{url}/readyz").is_success:
                    return True
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
                return False
    return False
