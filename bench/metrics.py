"""`sorl-bench metrics`: what recording the metrics of a request of one candidate and one step costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.engine import EngineBenchConfig, make_policy
from bench.machine import describe
from bench.table import print_table, run_subcommand
from policy import PolicySpec
from policy.flops import flops_of
from service.budget.admission import Grant
from service.budget.cost_model import Batch
from service.observability.metrics import Metrics
from service.observability.timeline import Journey
from service.protocol import codec
from service.protocol.schemas import parse_act
from service.sample import Outcome, Work
from service.scheduling.job import Job, Price

REQUEST_SECONDS = 0.51e-3
"""Of a whole (1, 1) request, one client: `sorl-bench serve`, p50, 0.507 ms with one compute thread, 0.584 with two."""


@dataclass(frozen=True)
class MetricsBenchConfig:
    """Time what the event loop and the worker thread do for metrics, with nothing else around it."""

    repeats: int = 20_000
    """Requests of a round."""
    rounds: int = 7
    """The fastest counts: whatever else ran made the others slower."""
    json: Path | None = None
    """Write everything here."""


def run(config: MetricsBenchConfig) -> dict[str, Any]:
    """Returns what `--json` writes."""
    metrics, spec = Metrics(), make_policy(EngineBenchConfig()).spec
    journey = one_request(spec)
    flops, batch = flops_of(spec), Batch(1, 1, 1)

    def request() -> None:
        metrics.requests.in_flight.inc()
        metrics.requests.in_flight.dec()
        metrics.requests.record(journey)

    def computed() -> None:
        metrics.count_batch(batch, requests=1, members=spec.ensemble_size, flops=flops, seconds=1e-4)

    rows = [
        {"recorded": name, "where": where, "us": seconds * 1e6, "of a (1, 1) request": seconds / REQUEST_SECONDS}
        for name, where, seconds in (
            ("a request with a deadline", "event loop", _fastest(request, config)),
            ("a batch", "worker thread", _fastest(computed, config)),
        )
    ]
    total = sum(float(str(row["us"])) for row in rows)
    rows.append({"recorded": "both", "where": "", "us": total, "of a (1, 1) request": total * 1e-6 / REQUEST_SECONDS})
    return {"machine": describe(), "request_us": REQUEST_SECONDS * 1e6, "rows": rows}


def one_request(spec: PolicySpec) -> Journey:
    """A (1, 1) request with a deadline, answered."""
    observation = np.zeros((1, spec.obs_dim), np.float32)
    value = np.zeros(1, np.float32)
    asked = {"observation": observation[0].tolist(), "num_candidates": 1, "num_steps": 1, "deadline_ms": 20.0}
    journey = Journey(time.monotonic())
    journey.request = parse_act(asked, codec.JSON)
    journey.spec = spec
    journey.deadline = journey.received + 0.02
    journey.grant = Grant(1, 1)
    journey.work = Work(observation, 1, 1, np.zeros(1, np.uint64))
    journey.outcome = Outcome(np.zeros((1, spec.action_dim), np.float32), value, value, value, value, "")
    journey.job = Job(journey.work, Price(rows=1), future=None)  # type: ignore[arg-type]
    journey.job.submitted = journey.received
    journey.job.started = journey.received + 1e-4
    journey.job.finished = journey.received + 5e-4
    journey.serialising = journey.received + 6e-4
    journey.ended = journey.received + REQUEST_SECONDS
    journey.error = None
    return journey


def _fastest(call: Callable[[], None], config: MetricsBenchConfig) -> float:
    """Seconds of one call."""
    best = float("inf")
    for _ in range(config.rounds):
        started = time.perf_counter()
        for _ in range(config.repeats):
            call()
        best = min(best, (time.perf_counter() - started) / config.repeats)
    return best


def print_report(report: dict[str, Any]) -> None:
    print(f"{report['machine']}; a (1, 1) request taken as {report['request_us']:.0f} us")
    print_table([{**row, "of a (1, 1) request": f"{100 * row['of a (1, 1) request']:.1f} %"} for row in report["rows"]])


def main(arguments: list[str]) -> int:
    """See `MetricsBenchConfig`."""
    return run_subcommand("metrics", MetricsBenchConfig, arguments, run, print_report)
