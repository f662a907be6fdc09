"""`sorl-bench metrics`: time to record the metrics of a request of one candidate and one step."""

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
from service.observability import Metrics, RequestTimeline
from service.protocol import codec, parse_act
from service.sample import SampleReply, SampleRequest
from service.timing import BatchSize, Deadline, JobTimes

REQUEST_SECONDS = 0.51e-3
"""The p50 latency of a (1, 1) request with one client (`sorl-bench serve`: 0.507 ms with one compute thread, 0.584 with
two)."""


@dataclass(frozen=True)
class MetricsBenchConfig:
    """Time the recording of metrics alone, on the event loop and in the worker thread."""

    repeats: int = 20_000
    """Requests per round."""
    rounds: int = 7
    """Number of rounds. The fastest counts, since other processes can only slow a round down."""
    json: Path | None = None
    """Write the report to this file."""


def run(config: MetricsBenchConfig) -> dict[str, Any]:
    """Time the recording. Returns the report that `--json` writes."""
    metrics, spec = Metrics(), make_policy(EngineBenchConfig()).spec
    timeline = one_request(spec)
    flops, size = flops_of(spec), BatchSize(1, 1, 1)

    def request() -> None:
        metrics.requests.in_flight.inc()
        metrics.requests.in_flight.dec()
        metrics.requests.record(timeline)

    def computed() -> None:
        metrics.count_batch(size, requests=1, nonfinite=0, members=spec.ensemble_size, flops=flops, seconds=1e-4)

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


def one_request(spec: PolicySpec) -> RequestTimeline:
    """A (1, 1) request with a deadline, answered."""
    observation = np.zeros((1, spec.obs_dim), np.float32)
    value = np.zeros(1, np.float32)
    asked = {"observation": observation[0].tolist(), "num_candidates": 1, "num_steps": 1, "deadline_ms": 20.0}
    timeline = RequestTimeline(time.monotonic())
    timeline.request = parse_act(asked, codec.JSON)
    timeline.spec = spec
    timeline.deadline = Deadline(reply=timeline.received + 0.02, compute=timeline.received + 0.019)
    timeline.granted = timeline.computed = SampleRequest(observation, 1, 1, np.zeros(1, np.uint64))
    timeline.reply = SampleReply(np.zeros((1, *spec.action_shape), np.float32), value, value, value, value, "")
    timeline.times = JobTimes(submitted=timeline.received)
    timeline.times.started = timeline.received + 1e-4
    timeline.times.finished = timeline.received + 5e-4
    timeline.encoding = timeline.received + 6e-4
    timeline.ended = timeline.received + REQUEST_SECONDS
    timeline.error = None
    return timeline


def _fastest(call: Callable[[], None], config: MetricsBenchConfig) -> float:
    """Seconds per call, in the fastest round."""
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
