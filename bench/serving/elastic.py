"""Section elastic: the N and M granted to requests with a 20 ms deadline, from light load to three times saturation."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.openloop import GeneratorTooSlow, Samples
from bench.serving.models import get_models
from bench.serving.overload import OVERLOAD, Load, fixed_budget, peak_goodput
from bench.serving.setup import Setup

DEADLINE_MS = 20.0
RATES = 9
LEAST_REQUESTS = 20
"""The least number of requests per measurement, which extends measurements at low rates."""
COLUMNS = (
    "offered/s",
    "answered",
    "N",
    "M",
    "mean N",
    "mean M",
    "success",
    "p50 ms",
    "p99 ms",
    "in time",
    "lag p99 ms",
)


def run(setup: Setup) -> dict[str, Any]:
    """Measure each offered rate, lowest first, a row each. Writes elastic.csv and elastic.png to `out` if set."""
    ours = next((contestant for contestant in setup.contestants if contestant.ours), None)
    if ours is None:
        raise ValueError("servers: elastic needs one of our servers, because peers have no deadlines")
    with ours.serving(setup.model, setup.body(1, 1)) as server:
        model = get_models(server.url)[0]
        saturation = peak_goodput(setup, fixed_budget(setup, server.url, setup.config.deadline_ms))
        load = Load(server.url, setup.fields(), DEADLINE_MS)
        rows = []
        for rate in np.geomspace(1.0, OVERLOAD * saturation, RATES):
            seconds = max(setup.config.seconds, LEAST_REQUESTS / rate)
            try:
                figures, note = summarise(load.at(rate, seconds), seconds, model["frontier"]), ""
            except GeneratorTooSlow as error:
                figures, note = {"offered/s": rate}, str(error)
            rows.append({**{column: figures.get(column) for column in COLUMNS}, "note": note})
    report = {
        "server": ours.name,
        "deadline_ms": DEADLINE_MS,
        "saturation/s": saturation,
        "frontier": model["frontier"],
        "frontier is": model["provenance"]["notes"],
        "rows": rows,
    }
    if setup.config.out is not None:
        write(report, setup.config.out)
    return report


def summarise(samples: Samples, seconds: float, frontier: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row's figures: the most frequent and mean (N, M), their expected success by the frontier, and latency."""
    answered = samples.status == 200
    granted = list(zip(samples.num_candidates[answered].tolist(), samples.num_steps[answered].tolist(), strict=True))
    figures = {
        "offered/s": len(samples.status) / seconds,
        "answered": int(answered.sum()),
        "in time": float(samples.met(DEADLINE_MS).mean()) if len(samples.status) else None,
        "p50 ms": samples.latency_ms(0.5),
        "p99 ms": samples.latency_ms(0.99),
        "lag p99 ms": samples.lag_ms(0.99),
    }
    if granted:
        (n, m), _ = Counter(granted).most_common(1)[0]
        means = np.mean(granted, axis=0)
        success = float(np.mean([expected_success(frontier, *cell) for cell in granted]))
        figures |= {"N": n, "M": m, "mean N": float(means[0]), "mean M": float(means[1]), "success": success}
    return figures


def expected_success(frontier: Sequence[Mapping[str, Any]], num_candidates: int, num_steps: int) -> float:
    """The success rate of the best measured cell within (N, M); 0 if there is none."""
    return max(
        (
            float(cell["success"])
            for cell in frontier
            if cell["num_candidates"] <= num_candidates and cell["num_steps"] <= num_steps
        ),
        default=0.0,
    )


def write(report: Mapping[str, Any], folder: Path) -> None:
    """Write the rows to elastic.csv and the plot to elastic.png."""
    from training.plotting import Plot, category, milliseconds_axis, success_axis

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "elastic.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, [*COLUMNS, "note"])
        table.writeheader()
        table.writerows(report["rows"])
    rows = [row for row in report["rows"] if row["success"] is not None]
    rates = [row["offered/s"] for row in rows]
    note = (
        f"{report['server']}, deadline {report['deadline_ms']:g} ms, open loop; dashed: saturation at (32, 4). "
        f"Expected success: from the frontier of the file that is served ({report['frontier is']})."
    )
    with Plot(folder / "elastic.png", 3, note, share=False) as (success, granted, latency):
        success.plot(rates, [row["success"] for row in rows], marker="o", color=category(0), label="expected success")
        success.plot(rates, [row["in time"] for row in rows], marker="s", color=category(1), label="answered in time")
        success_axis(success, "share")
        granted.plot(rates, [row["mean N"] for row in rows], marker="o", color=category(0), label="N")
        granted.plot(rates, [row["mean M"] for row in rows], marker="s", color=category(1), label="M")
        granted.set_yscale("log", base=2)
        granted.set_ylabel("granted, mean")
        latency.plot(rates, [row["p50 ms"] for row in rows], marker="o", color=category(0), label="p50")
        latency.plot(rates, [row["p99 ms"] for row in rows], marker="s", color=category(1), label="p99")
        latency.axhline(report["deadline_ms"], color="0.5", linewidth=0.8)
        latency.set_ylabel("latency from the intended time, ms")
        for axes in (success, granted, latency):
            milliseconds_axis(axes, "requests/s offered")
            axes.axvline(report["saturation/s"], color="0.5", linewidth=0.8, linestyle="--")
            axes.legend()
