"""`sorl-bench drill`: run the drill and print counts. The exit status is 1 if there is a violation."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.drill.client import send_all
from bench.drill.deadlines import deadline_rows
from bench.drill.faults import ServerUnderTest, schedule
from bench.drill.judge import judge
from bench.drill.ledger import Ledger
from bench.drill.plan import DrillRequest, plan, repeat_until
from bench.drill.versions import broken_files, make_versions
from bench.machine import describe
from bench.protocols import ProtocolName, installed, left_out, require
from bench.table import print_table, run_subcommand
from kernels.backend import BackendUnavailable

SHOWN = 20


@dataclass(frozen=True)
class DrillConfig:
    """Inject faults into a server under load, and check every request: it must have exactly one final reply, with the
    action of the version, N and M that the reply names, to the bit. Otherwise the exit status is 1.

    Half of the requests have a deadline of 50 or 100 ms: N and M may be reduced, and a reply that would be late is a
    504. How many were is reported, not judged: a restart, or a busy machine, makes requests late.
    """

    requests: int = 20_000
    """Least number of requests, each with its own id and seed; they continue until the last fault is over."""
    hang_ups: int = 1_000
    """How many of them are sent by clients that disconnect before the reply and then send the request again."""
    poison: int = 500
    """How many of them are malformed (half) or have observations that overflow in every network (half)."""
    reloads: int = 10
    """Reloads of the policy's file, broken ones included."""
    broken: int = 2
    """How many of the reloads are of damaged files, which must be refused."""
    restarts: int = 3
    """Restarts: SIGTERM, and a new process at the same address."""
    clients: int = 32
    """Requests in flight at a time."""
    protocols: tuple[ProtocolName, ...] = field(default_factory=installed)
    """How requests are sent, drawn by chance. By default all; groot needs the extra `zmq`, open-inference-grpc the
    extra `grpc`, and each is left out, with a line, if that is not installed."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Precision of the native engine, whose actions do not depend on the other requests of a batch."""
    threads: int = 0
    """Compute threads of the server; 0 is its default."""
    json: Path | None = None
    """Write counts and violations here."""

    def __post_init__(self) -> None:
        for name in ("requests", "clients"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        schedule(self.requests, self.reloads, self.broken, self.restarts)
        require(self.protocols)
        plan(self.requests, self.hang_ups, self.poison)


def run(config: DrillConfig) -> dict[str, Any]:
    """Run the drill. Returns the report that `--json` writes.

    Raises:
        ValueError: the native engine can't run here.
        RuntimeError: the server did not start.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            versions = make_versions(folder, "cpu", config.precision)
        except BackendUnavailable as error:
            raise ValueError(str(error)) from None
        started = time.monotonic()
        server = ServerUnderTest(
            folder / "served.safetensors",
            versions,
            broken_files(versions[0].content, folder),
            ("--backend", "cpu", "--precision", config.precision, "--threads", str(config.threads)),
            reloadable=config.reloads > 0,
            zeromq="groot" in config.protocols,
            grpc="open-inference-grpc" in config.protocols,
        )
        requests = plan(config.requests, config.hang_ups, config.poison, config.protocols)
        ledger = Ledger()
        try:
            asyncio.run(_drill(config, server, requests, ledger))
        finally:
            server.stop()
        seconds = time.monotonic() - started
        violations = server.violations + judge(requests, ledger, {v.sha: v for v in versions}, server.timeline)
    statuses = Counter(str(answer.reply.status) for answers in ledger.answers.values() for answer in answers)
    return {
        "machine": describe(),
        "seconds": seconds,
        "engine": versions[0].engine,
        "asked": dict(Counter(request.kind for request in requests)),
        "final answers": dict(sorted(statuses.items())),
        "on the way": dict(ledger.counts),
        "faults": dict(server.counts),
        "protocols": protocol_rows(ledger, config.protocols),
        "left out": left_out() if config.protocols == installed() else [],
        "deadlines": deadline_rows(ledger, server.faults),
        "violations": [asdict(violation) for violation in violations],
    }


async def _drill(config: DrillConfig, server: ServerUnderTest, requests: list[DrillRequest], ledger: Ledger) -> None:
    faults = schedule(config.requests, config.reloads, config.broken, config.restarts)
    async with asyncio.TaskGroup() as group:
        injecting = group.create_task(server.inject(faults, ledger))
        # Send until the last fault is over: a restart takes seconds, and each fault should happen under load.
        stream = repeat_until(requests, injecting.done)
        group.create_task(send_all(server.at, stream, server.versions[0].obs_dim, ledger, config.clients))
    await server.settle()


def protocol_rows(ledger: Ledger, protocols: Sequence[ProtocolName]) -> list[dict[str, Any]]:
    """The report's rows of final answers, a row for each protocol. Latencies are of those with status 200."""
    rows = []
    for name in protocols:
        answers = [a for all_of_one in ledger.answers.values() for a in all_of_one if a.request.protocol == name]
        statuses = Counter(answer.reply.status for answer in answers)
        times = [1e3 * (answer.received - answer.sent) for answer in answers if answer.reply.status == 200]
        p50, p99 = np.quantile(times, (0.5, 0.99)).tolist() if times else (None, None)
        counts = {"200": statuses.pop(200, 0), "504": statuses.pop(504, 0), "other": statuses.total()}
        rows.append({"protocol": name, "requests": len(answers), **counts, "p50 ms": p50, "p99 ms": p99})
    return rows


def print_report(report: dict[str, Any]) -> None:
    print(f"{report['machine']}; {report['engine']}; {report['seconds']:.0f} s")
    rows = [
        {"of": part, "what": what, "count": count}
        for part in ("asked", "on the way", "faults", "final answers")
        for what, count in report[part].items()
    ]
    violations = Counter(violation["kind"] for violation in report["violations"])
    rows += [{"of": "violations", "what": what, "count": count} for what, count in violations.items()]
    print_table([*rows, {"of": "violations", "what": "all", "count": len(report["violations"])}])
    print("\nfinal answers by protocol:")
    print_table(report["protocols"])
    for why in report["left out"]:
        print(f"left out: {why}")
    print("\nrequests with deadlines of 50 and 100 ms:")
    print_table(report["deadlines"])
    for violation in report["violations"][:SHOWN]:
        print("{kind}: {where}: {detail}".format(**violation), file=sys.stderr)


def main(arguments: list[str]) -> int:
    """See `DrillConfig`."""
    return run_subcommand("drill", DrillConfig, arguments, run, print_report, lambda report: bool(report["violations"]))
