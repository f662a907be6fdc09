"""The figures of a fleet: a row for each load and contestant, elastic against the others, files and tables."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.fleet.load import SEGMENT_SECONDS, joined
from bench.fleet.robots import Driven
from bench.openloop import GeneratorTooSlow, Samples
from bench.serving.overload import MAX_LAG_SHARE
from bench.table import print_table

RESULTS = (
    "load",
    "contestant",
    "episodes",
    "success",
    "low",
    "high",
    "misses",
    "N",
    "M",
    "degraded",
    "p50 ms",
    "p99 ms",
    "load in time",
    "goodput/s",
    "failed",
)
"""Columns of the table of results."""
COSTS = ("load", "contestant", "offered/s", "load lag p99 ms", "Hz", "CPU ms a tick", "simulation ms", "robots' cores")
"""Columns of the table of what robots and load took of the machine."""
COLUMNS = tuple(dict.fromkeys((*RESULTS, *COSTS, "note")))


@dataclass
class Point:
    """What was measured at one load with one contestant: episodes, and the load's results, segment by segment."""

    load: float
    contestant: str
    driven: list[Driven] = field(default_factory=list)
    samples: list[Samples] = field(default_factory=list)


def row_of(point: Point, deadline_ms: float, robots: int, load_rows: int) -> dict[str, Any]:
    """The row of a point with at least one episode. Shares are in [0, 1]; None where there is nothing to measure.

    Args:
        deadline_ms: of the load's requests.
        robots: that drive at a time.
        load_rows: observations of each of the load's requests.
    """
    from sorl_client.statistics import percentiles, wilson_interval

    driven = point.driven
    ticks = sum(one.ticks for one in driven)
    granted = [budget for one in driven for budget in one.granted]
    latencies = [ms for one in driven for ms in one.latencies_ms]
    successes = sum(one.success for one in driven)
    low, high = wilson_interval(successes, len(driven))
    p50, p99 = percentiles(latencies, (50, 99)) if latencies else (None, None)
    cpu_ms = 1e3 * sum(one.cpu_seconds for one in driven) / ticks
    rates = [one.hz for one in driven if one.ticks > 1]
    hz = statistics.median(rates) if rates else None
    misses = sum(one.misses for one in driven) / ticks
    load = _load_figures(point, deadline_ms)
    of_load = load["load in time"] if load["offered/s"] else 0.0
    goodput = None  # observations/s, of robots and load
    if hz is not None and of_load is not None:
        goodput = robots * hz * (1 - misses) + load["offered/s"] * of_load * load_rows
    return {
        "load": point.load,
        "contestant": point.contestant,
        "episodes": len(driven),
        "success": successes / len(driven),
        "low": low,
        "high": high,
        "misses": misses,
        "N": statistics.median_low([n for n, _ in granted]) if granted else None,
        "M": statistics.median_low([m for _, m in granted]) if granted else None,
        "degraded": sum(one.degraded for one in driven) / len(granted) if granted else None,
        "p50 ms": p50,
        "p99 ms": p99,
        "failed": sum(one.failed for one in driven),
        "Hz": hz,
        "CPU ms a tick": cpu_ms,
        "simulation ms": 1e3 * sum(one.simulation_seconds for one in driven) / ticks,
        "robots' cores": None if hz is None else cpu_ms / 1e3 * hz * robots,
        "goodput/s": goodput,
        **load,
    }


def _load_figures(point: Point, deadline_ms: float) -> dict[str, Any]:
    figures: dict[str, Any] = {"offered/s": 0.0, "load in time": None, "load lag p99 ms": None, "note": ""}
    if not point.samples:
        return figures
    samples, seconds = joined(point.samples), SEGMENT_SECONDS * len(point.samples)
    figures |= {"offered/s": len(samples.status) / seconds, "load lag p99 ms": samples.lag_ms(0.99)}
    try:
        met = samples.check(MAX_LAG_SHARE * deadline_ms).met(deadline_ms)
    except GeneratorTooSlow as error:
        return figures | {"note": f"load: {error}"}
    return figures | {"load in time": float(met.mean()) if len(met) else None}


def comparisons(points: Sequence[Point]) -> list[dict[str, Any]]:
    """The first contestant against each other one at each load, on the same episodes; p is of McNemar's exact test.

    Raises:
        KeyError: an episode was driven for one of them only.
    """
    from training.reporting import Paired

    first = points[0].contestant
    rows = []
    for ours in (point for point in points if point.contestant == first):
        won = {one.seed: one.success for one in ours.driven}
        for theirs in (point for point in points if point.load == ours.load and point is not ours):
            other = {one.seed: one.success for one in theirs.driven}
            seeds = sorted(won.keys() | other.keys())
            paired = Paired.of([won[seed] for seed in seeds], [other[seed] for seed in seeds])
            low, high = paired.interval
            rows.append(
                {
                    "load": ours.load,
                    "contestant": first,
                    "against": theirs.contestant,
                    "alone": paired.only_a,
                    "other alone": paired.only_b,
                    "difference": paired.difference,
                    "low": low,
                    "high": high,
                    "p": paired.p_value,
                    "succeeds more often": paired.verdict,
                }
            )
    return rows


def print_report(report: Mapping[str, Any]) -> None:
    """Print the tables of a report of `bench.fleet.cli.run`."""
    print(f"{report['machine']}; robots, load and server on the same cores")
    print(
        f"{report['policy']}, {report['task']}: {report['robots']} robots at {report['hz']:g} Hz, "
        f"deadline {report['deadline_ms']:g} ms; load 1 is {report['saturation/s']:.0f} requests/s of "
        f"{report['load rows']} observations, which keep back {report['load transit ms']:g} ms for the network"
    )
    for rule in report["contestants"]:
        print(f"  {rule}")
    print("\nsuccess, with its 95 % interval; misses as shares of ticks; latencies of answers")
    print_table([{column: row[column] for column in RESULTS} for row in report["rows"]])
    print("\nwhat the load and the robots' processes took")
    print_table([{column: row[column] for column in COSTS} for row in report["rows"]])
    print("\nelastic against the others, on the same episodes (p: McNemar's exact test)")
    print_table(report["comparisons"])
    for row in report["rows"]:
        if row["note"]:
            print(f"load {row['load']:g}, {row['contestant']}: {row['note']}")


def write(report: Mapping[str, Any], folder: Path) -> None:
    """Write the rows to fleet.csv and the plot to fleet.png."""
    from training.plotting import Plot, draw_rates, series_style, success_axis

    folder.mkdir(parents=True, exist_ok=True)
    rows = report["rows"]
    with (folder / "fleet.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows)
    note = (
        f"{report['policy']}: {report['robots']} simulated robots at {report['hz']:g} Hz beside an open loop, the same "
        f"{report['episodes']} episodes for every point, deadline {report['deadline_ms']:g} ms. "
        f"Load 1: {report['saturation/s']:.0f} requests/s of {report['load rows']} observations. "
        "Bars: 95 % Wilson intervals. " + " ".join(f"{rule}." for rule in report["contestants"])
    )
    contestants = list(dict.fromkeys(row["contestant"] for row in rows))
    with Plot(folder / "fleet.png", 3, note, share=False) as (success, misses, goodput):
        for number, contestant in enumerate(contestants):
            own = [row for row in rows if row["contestant"] == contestant]
            loads, style = [row["load"] for row in own], series_style(number)
            beside = 0.03 * (number - (len(contestants) - 1) / 2)  # so that intervals do not cover each other
            draw_rates(success, [load + beside for load in loads], own, label=contestant, **style)
            misses.plot(loads, [row["misses"] for row in own], label=contestant, **style)
            goodput.plot(loads, [row["goodput/s"] for row in own], label=contestant, **style)
        success_axis(success)
        success_axis(misses, "ticks without an answer in time")
        goodput.set_ylabel("observations/s answered in time")
        for axes in (success, misses, goodput):
            axes.set_xlabel("load, multiples of saturation")
            axes.legend()
