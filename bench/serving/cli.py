"""`sorl-bench serve`: calibrate the peers, run the requested sections, and print a table of each."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench import wrk
from bench.machine import describe
from bench.serving import elastic, head_of_line, overload, peak, protocols
from bench.serving.check import Checker
from bench.serving.contestants import calibrated, contestants
from bench.serving.models import policy_with_frontier
from bench.serving.setup import Section, ServeBenchConfig, Setup
from bench.table import print_table, run_subcommand
from policy import save_policy

RUN: Mapping[Section, Callable[[Setup], dict[str, Any]]] = {
    "peak": peak.run,
    "head-of-line": head_of_line.run,
    "overload": overload.run,
    "elastic": elastic.run,
    "protocols": protocols.run,
}
ALONE: frozenset[Section] = frozenset({"protocols"})
"""Sections that measure neither peers nor by wrk."""


def run(config: ServeBenchConfig) -> dict[str, Any]:
    """Measure all servers. Returns the report that `--json` writes.

    Raises:
        FileNotFoundError: wrk is not installed.
        ValueError: a requested server does not exist.
    """
    everyone = contestants(config.servers, config.threads, config.peer_python)
    if ALONE.issuperset(config.sections):
        everyone = [contestant for contestant in everyone if contestant.ours]
    else:
        wrk.require_wrk()
    with tempfile.TemporaryDirectory() as folder:
        policy = policy_with_frontier(config.action_horizon)
        model = Path(folder) / "planted.safetensors"
        save_policy(policy, model)
        setup = Setup(config, Path(folder), policy, model, [])
        checker = Checker(policy)
        for contestant in everyone:
            ready = contestant
            if not contestant.ours:
                ready = calibrated(contestant, model, setup.body(32, 4), checker, min(2.0, config.seconds))
                print(f"{ready.name}: {ready.failed or ' '.join(ready.flags)}", file=sys.stderr)
            setup.contestants.append(ready)
        skipped = [contestant for contestant in setup.contestants if contestant.failed]
        setup.contestants[:] = [contestant for contestant in setup.contestants if not contestant.failed]
        sections = {name: _section(name, setup) for name in config.sections}
    return {
        "machine": describe(),
        "seconds": config.seconds,
        "rounds": config.rounds,
        "servers": {contestant.name: " ".join(contestant.flags) for contestant in setup.contestants},
        "skipped": {contestant.name: contestant.failed for contestant in skipped},
        "sections": sections,
    }


def _section(name: Section, setup: Setup) -> dict[str, Any]:
    """The section's report; if the section fails, a report with the reason."""
    try:
        return RUN[name](setup)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        return {"rows": [], "failed": str(error)}


def print_report(report: dict[str, Any]) -> None:
    print(f"{report['machine']}; load on the same cores; {report['rounds']} rounds, medians")
    for name, flags in report["servers"].items():
        print(f"  {name}: {flags}")
    for name, reason in report["skipped"].items():
        print(f"  {name}: skipped: {reason}")
    for name, section in report["sections"].items():
        print(f"\n{name}" + (f": {section['failed']}" if "failed" in section else ""))
        print_table(section["rows"])
        for why in section.get("left out", []):
            print(f"left out: {why}")


def main(arguments: list[str]) -> int:
    """See `ServeBenchConfig`."""
    return run_subcommand("serve", ServeBenchConfig, arguments, run, print_report, failed)


def failed(report: dict[str, Any]) -> bool:
    return any("failed" in section for section in report["sections"].values())
