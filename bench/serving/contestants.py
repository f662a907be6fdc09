"""The measured servers: ours with each engine, and the peers, each with its best setting."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from bench import wrk
from bench.process import NO_GRACE, ServerProcess, serving, sorl_serve
from bench.serving.check import Checker, WrongAnswer
from kernels.threads import available_cores

ONE_THREAD = "ours, cpu/bf16, 1 thread"
"""Computes more slowly, but leaves the event loop a core, which matters when most requests must be refused."""
OURS = {
    "ours, cpu/bf16": ("--backend", "cpu", "--precision", "bf16"),
    ONE_THREAD: ("--backend", "cpu", "--precision", "bf16", "--threads", "1"),
    "ours, cpu/fp32": ("--backend", "cpu", "--precision", "fp32"),
    "ours, reference": ("--backend", "reference"),
}
PEERS = {"FastAPI": "fastapi", "LitServe": "litserve", "mosec": "mosec", "Ray Serve": "ray"}
"""The peers' names and packages; `bench.peers_http` has a module for each."""
CALIBRATION_CLIENTS = 16


@dataclass(frozen=True)
class Contestant:
    """A server that can be started.

    Attributes:
        name: its name in tables.
        flags: flags of its command line.
        package: a peer's package; "" for our server.
        python: a peer's Python interpreter.
        failed: why it can't take part; "" if it can.
    """

    name: str
    flags: tuple[str, ...] = ()
    package: str = ""
    python: Path = Path()
    failed: str = ""

    @property
    def ours(self) -> bool:
        return not self.package

    def serving(self, model: Path, body: Path) -> AbstractContextManager[ServerProcess]:
        """Context manager: serves `model` until the end of the block. A peer is ready once it replies 200 to `body`."""
        if self.ours:
            return serving(sorl_serve(model, *self.flags, *NO_GRACE))
        url = f"http://127.0.0.1:{free_port()}"
        command = [str(self.python), "-m", f"bench.peers_http.{self.package}_server", "--model", str(model)]
        command += ["--port", url.rpartition(":")[2], *self.flags]
        # Better for peers than torch's default: spinning OpenMP threads would take cores from the web server.
        return serving(command, lambda log: url if _answers(url, body) else None, {"OMP_WAIT_POLICY": "passive"})


def contestants(wanted: tuple[str, ...], threads: int, python: Path) -> list[Contestant]:
    """The servers whose names contain one of `wanted` (all if empty), ours first.

    Peers that are not installed in `python` are included, with the reason in `failed`.

    Raises:
        ValueError: an entry of `wanted` is in no name.
    """
    chosen = ("--threads", str(threads))
    everyone = [Contestant(name, flags if name == ONE_THREAD else (*flags, *chosen)) for name, flags in OURS.items()]
    for name, package in PEERS.items():
        missing = "" if _installed(package, python) else f"{package} is not installed (extra bench)"
        everyone.append(Contestant(name, package=package, python=python, failed=missing))
    for part in wanted:
        if not any(part in contestant.name for contestant in everyone):
            known = ", ".join(contestant.name for contestant in everyone)
            raise ValueError(f"servers: no name contains {part!r}; known: {known}")
    return [c for c in everyone if not wanted or any(part in c.name for part in wanted)]


def calibrated(peer: Contestant, model: Path, body: Path, checker: Checker, seconds: float) -> Contestant:
    """`peer` with the threads, worker processes and precision that give the most requests/s of `body` at 16 clients.

    Each setting's reply is compared with the reference first; a peer with a wrong action does not take part. A setting
    that can't run is left out, with a message on standard error.
    """
    if peer.failed:
        return peer
    found: dict[Contestant, float] = {}
    failed = ""
    for flags in _settings():
        candidate = replace(peer, flags=flags)
        try:
            with candidate.serving(model, body) as server:
                checker.check(server.url, flags[-1])
                wrk.load(server.url, body, CALIBRATION_CLIENTS, 1)
                figures = wrk.load(server.url, body, CALIBRATION_CLIENTS, seconds)
                found[candidate] = (figures["requests"] - figures["failed"]) / figures["seconds"]
        except WrongAnswer as error:
            return replace(candidate, failed=f"{' '.join(flags)}: {error}")
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            failed = f"{' '.join(flags)}: {error}"
            print(f"{peer.name}: {failed}", file=sys.stderr)
    return max(found, key=lambda candidate: found[candidate]) if found else replace(peer, failed=failed)


def free_port() -> int:
    """A free port, for servers that don't support port 0."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _settings() -> list[tuple[str, ...]]:
    """The flags to try: one core, all cores in one process, one process per core; each with both precisions (last)."""
    cores = available_cores()
    return [
        ("--threads", str(threads), "--workers", str(workers), "--precision", precision)
        for threads, workers in dict.fromkeys([(1, 1), (cores, 1), (1, cores)])
        for precision in ("fp32", "bf16")
    ]


def _installed(package: str, python: Path) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return subprocess.run([str(python), "-c", code], check=False).returncode == 0


def _answers(url: str, body: Path) -> bool:
    request = urllib.request.Request(f"{url}/act", body.read_bytes(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False
