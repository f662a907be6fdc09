"""Section overload: open-loop load at three times the server's peak goodput, with deadlines."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from bench import wrk
from bench.openloop import GeneratorTooSlow, OpenLoad, Samples, measure
from bench.process import memory_mib
from bench.serving.setup import Setup

BUDGET = (32, 4)
CLOSED_CLIENTS = 16
RAMP = (0.6, 0.75, 0.9, 1.0, 1.1)
"""Offered rates at which peak goodput is measured, as shares of the closed loop's requests/s."""
OVERLOAD = 3.0
MAX_LAG_SHARE = 0.2
"""The largest p99 of the generator's lag, as a share of the deadline."""
COLUMNS = (
    "peak/s",
    "offered/s",
    "goodput/s",
    "of peak",
    "accepted",
    "of these in time",
    "others",
    "refused in time",
    "p99 ms",
    "lag p99 ms",
    "MiB early",
    "MiB end",
)


@dataclass(frozen=True)
class Load:
    """Identical requests with one deadline to one server."""

    url: str
    fields: dict[str, Any]
    deadline_ms: float

    def at(self, rate: float, seconds: float, memory: list[tuple[float, float]] | None = None, pid: int = 0) -> Samples:
        """Send `rate` requests/s for `seconds`. Each second (time, MiB of process `pid`) is appended to `memory`.

        Raises:
            GeneratorTooSlow: the generator's lag is too large.
        """
        load = OpenLoad(self.url, self.fields, rate, seconds, self.deadline_ms, give_up_ms=4 * self.deadline_ms)
        started = time.monotonic()

        def watch() -> None:
            if memory is not None:
                memory.append((time.monotonic() - started, memory_mib(pid)))

        return measure(load, watch).check(MAX_LAG_SHARE * self.deadline_ms)


def run(setup: Setup) -> dict[str, Any]:
    """Measure each server, a row each; `memory` in the report has each server's (seconds, MiB)."""
    rows, memories = [], {}
    for contestant in setup.fastest:
        memory: list[tuple[float, float]] = []
        with contestant.serving(setup.model, setup.body(*BUDGET)) as server:
            load = fixed_budget(setup, server.url, setup.config.deadline_ms, ours=contestant.ours)
            try:
                peak = peak_goodput(setup, load)
                samples = load.at(OVERLOAD * peak, setup.config.overload_seconds, memory, server.pid)
                figures = summarise(samples, setup.config.deadline_ms, setup.config.overload_seconds)
                figures |= {"peak/s": peak, "of peak": figures["goodput/s"] / peak, **_grown(memory)}
                rows.append(_row(contestant.name, figures, ""))
            except GeneratorTooSlow as error:
                rows.append(_row(contestant.name, {}, str(error)))
        memories[contestant.name] = memory
    return {"deadline_ms": setup.config.deadline_ms, "rows": rows, "memory": memories}


def fixed_budget(setup: Setup, url: str, deadline_ms: float, ours: bool = True) -> Load:
    """Load of exactly (32, 4): our server must refuse requests that it can't answer in time, not degrade them."""
    exact = {"on_late": "reject"} if ours else {}
    return Load(url, setup.fields(num_candidates=BUDGET[0], num_steps=BUDGET[1], **exact), deadline_ms)


def peak_goodput(setup: Setup, load: Load) -> float:
    """The highest goodput (replies/s within the deadline) over offered rates around the closed loop's requests/s.

    Raises:
        GeneratorTooSlow: there is no valid measurement with a reply within the deadline.
    """
    closed = wrk.load(load.url, setup.body(*BUDGET), CLOSED_CLIENTS, setup.config.seconds)
    rate = closed["requests"] / closed["seconds"]
    seconds = setup.config.seconds
    peak, reason = 0.0, f"no reply within {load.deadline_ms:g} ms at any rate, so there is no peak to overload"
    for share in RAMP:
        try:
            peak = max(peak, float(load.at(share * rate, seconds).met(load.deadline_ms).sum()) / seconds)
        except GeneratorTooSlow as error:
            reason = str(error)
    if not peak:
        raise GeneratorTooSlow(reason)
    return peak


def summarise(samples: Samples, deadline_ms: float, seconds: float) -> dict[str, Any]:
    """A row's figures: the shares of requests answered with 200 in time or late, refused in time, and others."""
    met = samples.met(deadline_ms)
    answered = samples.status == 200
    refused = ((samples.status == 503) | (samples.status == 504)) & (samples.latency <= deadline_ms / 1e3)
    return {
        "offered/s": len(samples.status) / seconds,
        "goodput/s": float(met.sum()) / seconds,
        "accepted": int(answered.sum()),
        "of these in time": float(met[answered].mean()) if answered.any() else None,
        "others": int((~answered).sum()),
        "refused in time": float(refused[~answered].mean()) if not answered.all() else None,
        "p99 ms": samples.latency_ms(0.99),
        "lag p99 ms": samples.lag_ms(0.99),
    }


def _row(name: str, figures: dict[str, Any], note: str) -> dict[str, Any]:
    return {"server": name, **{column: figures.get(column) for column in COLUMNS}, "note": note}


def _grown(memory: list[tuple[float, float]]) -> dict[str, Any]:
    """Memory after the first tenth of the time, in which queues and buffers fill, and at the end."""
    if not memory:
        return {}
    return {"MiB early": memory[len(memory) // 10][1], "MiB end": memory[-1][1]}
