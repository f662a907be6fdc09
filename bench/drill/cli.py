"""`sorl-bench drill`: faults under load. Prints counts; exit status 1 for any violation."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bench.drill.client import ask_all
from bench.drill.faults import Victim, schedule
from bench.drill.judge import judge
from bench.drill.ledger import Ledger
from bench.drill.plan import Ask, keep_asking, plan
from bench.drill.versions import broken_files, make_versions
from bench.machine import describe
from bench.table import print_table, run_subcommand
from kernels.backend import BackendUnavailable

SHOWN = 20


@dataclass(frozen=True)
class DrillConfig:
    """Break things around a server under load, and account for every request: exactly one final answer, of the version
    it names, to the bit. Exit status 1 otherwise."""

    requests: int = 20_000
    """Requests at least, each with an id and a seed of its own; they go on until the last fault is over."""
    hang_ups: int = 1_000
    """Of so many, how many clients leave before the answer and ask again."""
    poison: int = 500
    """Of so many, how many are malformed (half) or have observations that overflow every network (half)."""
    reloads: int = 10
    """New versions of the policy, broken ones included."""
    broken: int = 2
    """Of these, how many files are damaged and must be refused."""
    restarts: int = 3
    """SIGTERM and a new process at the same address."""
    clients: int = 32
    """Requests open at a time."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of the native engine, whose answers do not depend on company."""
    threads: int = 0
    """Compute threads of the server; 0 is its own choice."""
    json: Path | None = None
    """Write counts and violations here."""

    def __post_init__(self) -> None:
        for name in ("requests", "clients"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        schedule(self.requests, self.reloads, self.broken, self.restarts)
        plan(self.requests, self.hang_ups, self.poison)


def run(config: DrillConfig) -> dict[str, Any]:
    """Returns what `--json` writes.

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
        victim = Victim(
            folder / "served.safetensors",
            versions,
            broken_files(versions[0].content, folder),
            ("--backend", "cpu", "--precision", config.precision, "--threads", str(config.threads)),
            reloadable=config.reloads > 0,
        )
        asks = plan(config.requests, config.hang_ups, config.poison)
        ledger = Ledger()
        try:
            asyncio.run(_drill(config, victim, asks, ledger))
        finally:
            victim.stop()
        seconds = time.monotonic() - started
        violations = victim.violations + judge(asks, ledger, {v.sha: v for v in versions}, victim.timeline)
    statuses = Counter(str(answer.response.status) for answers in ledger.answers.values() for answer in answers)
    return {
        "machine": describe(),
        "seconds": seconds,
        "engine": versions[0].engine,
        "asked": dict(Counter(ask.kind for ask in asks)),
        "final answers": dict(sorted(statuses.items())),
        "on the way": dict(ledger.counts),
        "faults": dict(victim.counts),
        "violations": [asdict(violation) for violation in violations],
    }


async def _drill(config: DrillConfig, victim: Victim, asks: list[Ask], ledger: Ledger) -> None:
    faults = schedule(config.requests, config.reloads, config.broken, config.restarts)
    async with asyncio.TaskGroup() as group:
        suffering = group.create_task(victim.suffer(faults, ledger))
        # To the end of the last fault: a restart takes seconds, and each should happen under load.
        stream = keep_asking(asks, suffering.done)
        group.create_task(ask_all(victim.url, stream, victim.versions[0].obs_dim, ledger, config.clients))
    await victim.settle()


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
    for violation in report["violations"][:SHOWN]:
        print("{kind}: {where}: {detail}".format(**violation), file=sys.stderr)


def main(arguments: list[str]) -> int:
    """See `DrillConfig`."""
    return run_subcommand("drill", DrillConfig, arguments, run, print_report, lambda report: bool(report["violations"]))
