"""Who is measured: our server with each engine, and the peers, each at its best setting."""

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
"""Slower, and it leaves the event loop a core of its own, which counts when most requests must be refused."""
OURS = {
    "ours, cpu/bf16": ("--backend", "cpu", "--precision", "bf16"),
    ONE_THREAD: ("--backend", "cpu", "--precision", "bf16", "--threads", "1"),
    "ours, cpu/fp32": ("--backend", "cpu", "--precision", "fp32"),
    "ours, reference": ("--backend", "reference"),
}
PEERS = {"FastAPI": "fastapi", "LitServe": "litserve", "mosec": "mosec", "Ray Serve": "ray"}
"""Names, and the packages they need; `bench.peers_http` has a module of each."""
CALIBRATION_CLIENTS = 16


@dataclass(frozen=True)
class Contestant:
    """A server that can be started.

    Attributes:
        name: in tables.
        flags: of its command line.
        package: a peer's; "" is our own server.
        python: that runs it.
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
        """It serves `model` until the block ends; a peer is ready when it answers `body`."""
        if self.ours:
            return serving(sorl_serve(model, *self.flags, *NO_GRACE))
        url = f"http://127.0.0.1:{free_port()}"
        command = [str(self.python), "-m", f"bench.peers_http.{self.package}_server", "--model", str(model)]
        command += ["--port", url.rpartition(":")[2], *self.flags]
        # Spinning OpenMP threads fight the web server for its core: kinder to peers than torch's default.
        return serving(command, lambda log: url if _answers(url, body) else None, {"OMP_WAIT_POLICY": "passive"})


def contestants(wanted: tuple[str, ...], threads: int, python: Path) -> list[Contestant]:
    """Ours first. Peers that `python` lacks are there too, with the reason why they can't take part.

    Raises:
        ValueError: `wanted` has a part of no name.
    """
    chosen = ("--threads", str(threads))
    everyone = [Contestant(name, flags if name == ONE_THREAD else (*flags, *chosen)) for name, flags in OURS.items()]
    for name, package in PEERS.items():
        missing = "" if _installed(package, python) else f"{package} is not installed (extra bench)"
        everyone.append(Contestant(name, package=package, python=python, failed=missing))
    for part in wanted:
        if not any(part in contestant.name for contestant in everyone):
            known = ", ".join(contestant.name for contestant in everyone)
            raise ValueError(f"servers: {part!r} is part of no name; there are {known}")
    return [c for c in everyone if not wanted or any(part in c.name for part in wanted)]


def calibrated(peer: Contestant, model: Path, body: Path, checker: Checker, seconds: float) -> Contestant:
    """`peer` with whichever threads, worker processes and precision answer the most of `body` at 16 clients.

    Every setting's answers are compared with the reference first: one wrong answer, and the peer takes no part. A
    setting that can't run is left out, and standard error says so.
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
    """For servers that can't take port 0 and say which they got."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _settings() -> list[tuple[str, ...]]:
    """One core, all cores in one process, all cores in processes of their own; precision last."""
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
