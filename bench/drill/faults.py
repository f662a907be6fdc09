"""The server under test, and the faults injected into it: new versions, broken files, restarts."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from bench.connection import Response, connect, encode_request
from bench.drill.deadlines import Fault, Injected
from bench.drill.judge import Violation
from bench.drill.ledger import Ledger
from bench.drill.plan import MODEL
from bench.drill.versions import Timeline, Version
from bench.process import ServerProcess, addresses, sorl_serve, sorl_serve_ready

SETTLE_SECONDS = 30.0
"""At the end: seconds within which the server must notice every client that disconnected."""


def schedule(requests: int, reloads: int, broken: int, restarts: int) -> list[tuple[int, Fault]]:
    """The faults as (number of requests before it, fault), spread evenly over the requests.

    Raises:
        ValueError: more broken files than reloads, or a number below 0.
    """
    if min(reloads, broken, restarts) < 0 or broken > reloads:
        raise ValueError(f"need 0 <= broken <= reloads and 0 <= restarts, got {broken}, {reloads} and {restarts}")
    kinds: list[tuple[float, Fault]] = [((i + 0.5) / (reloads - broken), "reload") for i in range(reloads - broken)]
    kinds += [((i + 0.5) / broken, "broken reload") for i in range(broken)]
    kinds += [((i + 0.5) / restarts, "restart") for i in range(restarts)]
    ordered = [fault for _, fault in sorted(kinds)]
    return [((i + 1) * requests // (len(ordered) + 1), fault) for i, fault in enumerate(ordered)]


@dataclass
class ServerUnderTest:
    """Our server in the drill, always at the same addresses.

    Attributes:
        path: the policy file that it serves.
        versions: valid contents of that file; it starts with the first.
        broken: contents that it must refuse.
        flags: flags of its command line.
        reloadable: whether it gets an admin key.
        zeromq: whether it gets a port for GR00T's protocol.
        grpc: whether it gets one for gRPC.
        violations: violations found in the server itself.
        counts: how many faults were injected, by kind.
        faults: when they were, in the event loop's seconds.
    """

    path: Path
    versions: tuple[Version, Version]
    broken: list[bytes]
    flags: tuple[str, ...]
    reloadable: bool
    zeromq: bool
    grpc: bool
    violations: list[Violation] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[Injected] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._key = secrets.token_hex() if self.reloadable else ""
        self._current = self.versions[0]
        self.timeline = Timeline(self._current.sha)
        self._replace_file(self._current.content)
        self._server = self._start(0, 0, 0)
        self.at = addresses(self._server)

    async def inject(self, faults: Iterable[tuple[int, Fault]], ledger: Ledger) -> None:
        """Inject the faults one after another, each once the ledger has the number of requests before it."""
        now = asyncio.get_running_loop().time
        for after, fault in faults:
            await ledger.reached(after)
            begin = now()
            if fault == "restart":
                await self._restart()
            elif fault == "reload":
                await self._reload()
            else:
                await self._reload_broken()
            self.faults.append(Injected(fault, begin, now()))

    async def settle(self) -> None:
        """Check that the server has no requests left, now that all clients have disconnected."""
        loop = asyncio.get_running_loop()
        until = loop.time() + SETTLE_SECONDS
        while True:
            text = (await self._call("GET", "/metrics")).body.decode()
            left = {name: _gauge(text, name) for name in ("sorl_requests_in_flight", "sorl_queue_requests")}
            if not any(left.values()):
                return
            if loop.time() > until:
                self.violations.append(Violation("left behind", "server", str(left)))
                return
            await asyncio.sleep(0.1)

    def stop(self) -> None:
        """Send SIGTERM, and check that the server drains, exits with 0 and has logged no traceback."""
        status, log = self._server.stop()
        if status != 0:
            self.violations.append(Violation("bad end", "server", f"exit status {status}: {log[-400:]}"))
        if found := re.search(r"Traceback \(most recent call last\)[\s\S]{0,2000}", log):
            self.violations.append(Violation("traceback", "server", found[0]))

    async def _restart(self) -> None:
        await asyncio.to_thread(self.stop)
        ports = (_port(self.at.http), _port(self.at.zeromq), _port(self.at.grpc))
        self._server = await asyncio.to_thread(self._start, *ports)
        self.counts["restarts"] += 1

    async def _reload(self) -> None:
        new = self.versions[1] if self._current is self.versions[0] else self.versions[0]
        self._replace_file(new.content)
        now = asyncio.get_running_loop().time
        self.timeline.begins(new.sha, now())
        response = await self._call("POST", f"/models/{MODEL}/reload")
        self.timeline.replaced(now())
        self._current = new
        if response.status == 200 and response.json().get("model_version") == new.sha:
            self.counts["reloads"] += 1
        else:
            self.violations.append(Violation("reload failed", new.sha[:12], _said(response)))

    async def _reload_broken(self) -> None:
        self._replace_file(self.broken[self.counts["broken reloads"] % len(self.broken)])
        response = await self._call("POST", f"/models/{MODEL}/reload")
        self.counts["broken reloads"] += 1
        self._replace_file(self._current.content)
        if not 400 <= response.status < 500:
            self.violations.append(Violation("broken file not refused", "reload", _said(response)))

    async def _call(self, method: str, path: str) -> Response:
        connection = await connect(self.at.http)
        try:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            return await connection.send(encode_request(method, path, headers=headers))
        finally:
            connection.close()

    def _start(self, port: int, zeromq_port: int, grpc_port: int) -> ServerProcess:
        key = ("--admin-key", self._key) if self._key else ()
        zeromq = ("--zmq-port", str(zeromq_port)) if self.zeromq else ()
        grpc = ("--grpc-port", str(grpc_port)) if self.grpc else ()
        server = ServerProcess(sorl_serve(self.path, *self.flags, *key, *zeromq, *grpc, port=port))
        try:
            server.wait_until_ready(sorl_serve_ready)
        except RuntimeError:
            server.stop()
            raise
        return server

    def _replace_file(self, content: bytes) -> None:
        """Replace the file by a rename, as a deployment does."""
        temporary = self.path.with_suffix(".new")
        temporary.write_bytes(content)
        temporary.replace(self.path)


def _port(url: str | None) -> int:
    return 0 if url is None else urlsplit(url).port or 0


def _said(response: Response) -> str:
    return f"{response.status}: {response.body[:400].decode(errors='replace')}"


def _gauge(text: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else float("nan")
