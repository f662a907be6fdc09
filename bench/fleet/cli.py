"""`sorl-bench fleet`: drive the same episodes for each contestant at each load, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.fleet.load import loading, saturation
from bench.fleet.report import Point, comparisons, print_report, row_of, write
from bench.fleet.robots import Drive, Fleet, Robot, robots
from bench.fleet.rules import Rule, rules_of
from bench.machine import describe
from bench.openloop import OpenLoad
from bench.process import NO_GRACE, serving, sorl_serve
from bench.serving.bodies import observations
from bench.table import run_subcommand, write_json
from policy import PolicySpec, load_policy

WARM_UP_SECONDS = 1.0
"""Seconds that the load lasts before the robots begin, so that the server knows how slow it is."""


def _scene() -> Path:
    from service.settings import shipped_policy

    return shipped_policy().with_name("scene.safetensors")


@dataclass(frozen=True)
class FleetBenchConfig:
    """Does more compute pay when compute is scarce? Success of simulated robots, by load and by how they ask.

    Robots drive episodes in OGBench, in real time: observe, POST /act with a deadline, step. A tick whose request is
    refused or late repeats the last action, and is a miss. Meanwhile an open loop (Poisson arrivals) sends other
    requests with the same deadline, at multiples of what saturates the server.

    Three contestants meet the same episodes at every load:

      elastic      asks with nothing but the deadline: the server chooses (N, M), and reduces them, though not below
                   `min_quality`, where it refuses;
      best fixed   asks for the policy's default budget, and is refused if there is no time for it;
      cheapest     asks for (1, 1), or the cheapest cell that was measured, and is refused likewise.

    The load asks as the robots do: it stands for the other robots of a fleet that all follow one rule. So a contestant
    meets the queue that its own rule makes. Load 1 is as many requests/s as the server can answer within the deadline
    at the default budget; it is measured first, and the same for all contestants.

    Robots, load and server share this machine's cores, and the second table says what the robots took. If that is much
    of them, lower --hz or --robots. Needs the extra `train`, and wrk unless --saturation is given.

    A first look, in some minutes:

      sorl-bench fleet --episodes 8 --loads 0 1 2 --rounds 1

    The exit status is 1 if a request failed otherwise than by a refusal or its deadline.
    """

    model: Path = field(default_factory=_scene)
    """Policy file; by default the shipped scene."""
    task: str | None = None
    """OGBench single-task name; by default the policy's own."""
    robots: int = 4
    """Robots that drive at a time, each in a process of its own."""
    episodes: int = 50
    """Episodes of each contestant at each load."""
    first_seed: int = 40_000
    """Seed of the first episode; the next ones follow. Policies and budgets were chosen on other seeds."""
    rounds: int = 2
    """Turns: contestants alternate, so that what else the machine does meets them alike."""
    loads: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 3.0)
    """Loads beside the robots, as multiples of saturation."""
    load_rows: int = 16
    """Observations of each of the load's requests, as a gateway sends them for several robots. With few, the server's
    event loop saturates before its compute does, and smaller budgets help nobody."""
    load_transit_ms: float = 6.0
    """What the load keeps back from its deadline for the network, in ms. Robots keep back what `sorl_client` measures,
    beside a load on two cores 5 to 10 ms. If the load kept back much less, its requests would crowd out the robots'."""
    saturation: float | None = None
    """Requests/s of load 1; by default as measured."""
    saturation_seconds: float = 3.0
    """Seconds of each of the six measurements of saturation."""
    deadline_ms: float = 25.0
    """Deadline of every request, of robots and load, in ms."""
    min_quality: float = 0.9
    """The least measured success of what elastic's requests are granted, as a share of the best cell's; 0: no limit."""
    hz: float | None = None
    """Ticks/s of the robots; by default the task's. Fewer leave the server more of the cores."""
    max_steps: int | None = None
    """Ticks after which an episode ends; by default where the task ends it."""
    threads: int = 0
    """Compute threads of the server; 0 is its default."""
    out: Path | None = None
    """Folder for fleet.csv and fleet.png."""
    json: Path | None = None
    """Write the report to this file, with every episode."""

    def __post_init__(self) -> None:
        for name in ("robots", "episodes", "rounds", "load_rows", "saturation_seconds", "deadline_ms"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.load_transit_ms < self.deadline_ms:
            raise ValueError(f"load_transit_ms must be at least 0 and below deadline_ms, got {self.load_transit_ms}")
        for name in ("saturation", "hz", "max_steps"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.rounds > self.episodes:
            raise ValueError(f"rounds must be at most the {self.episodes} episodes, got {self.rounds}")
        if not self.loads or not min(self.loads) >= 0 or len(set(self.loads)) < len(self.loads):
            raise ValueError(f"loads must be different numbers of at least 0, got {self.loads}")
        if not 0 <= self.min_quality <= 1:
            raise ValueError(f"min_quality must be 0 to 1, got {self.min_quality}")
        if self.threads < 0:
            raise ValueError(f"threads must be 0 or more, got {self.threads}")
        if not self.model.is_file():
            raise ValueError(f"model: there is no file {self.model}")


def run(config: FleetBenchConfig) -> dict[str, Any]:
    """Measure all points. Returns the report that `--json` writes; writes fleet.csv and fleet.png to `out` if set.

    After each round, all files are written with the rounds so far. Ctrl-C prints their report, too.

    Raises:
        CheckpointError: `model` is not a policy.
        FileNotFoundError: wrk is not installed, and no saturation is given.
        ValueError: task and policy do not fit, the deadline is longer than a tick, or a file can't be written.
        RuntimeError: the server or a robot did not start, or a robot cannot go on.
    """
    from training.files import require_file, require_folder

    if config.out is not None:
        require_folder("--out", config.out)
    if config.json is not None:
        require_file("--json", config.json)
    policy = load_policy(config.model)
    spec, rules = policy.spec, rules_of(policy.spec, config.min_quality)
    robot = _robot(config, spec)
    with serving(sorl_serve(config.model, "--threads", str(config.threads), *NO_GRACE)) as server:
        full = config.saturation
        if full is None and any(config.loads):
            full = saturation(
                server.url, policy, config.model, config.load_rows, config.deadline_ms, config.saturation_seconds
            )
        with robots(replace(robot, url=server.url), config.robots) as fleet:
            about = {
                "machine": describe(),
                "policy": spec.name,
                "version": policy.version,
                "task": robot.task,
                "robots": config.robots,
                "hz": robot.hz,
                "deadline_ms": config.deadline_ms,
                "load rows": config.load_rows,
                "load transit ms": config.load_transit_ms,
                "first_seed": config.first_seed,
                "saturation/s": full or 0.0,
                "contestants": [str(rule) for rule in rules],
            }
            return _reported(config, about, _rounds(config, server.url, spec.obs_dim, rules, fleet, full or 0.0))


def _reported(config: FleetBenchConfig, about: dict[str, Any], rounds: Iterator[list[Point]]) -> dict[str, Any]:
    """The report of all rounds, whose first part is `about`. See `run`."""
    report: dict[str, Any] = {}
    try:
        for number, points in enumerate(rounds, 1):
            report = about | _figures(config, points, number)
            write_json(config.json, report)
            if config.out is not None:
                write(report, config.out)
    except KeyboardInterrupt:
        if report:
            print(f"\ninterrupted after {report['rounds']} of {config.rounds} rounds")
            print_report(report)
        raise
    return report


def _figures(config: FleetBenchConfig, points: Sequence[Point], rounds: int) -> dict[str, Any]:
    """The part of the report that the points make, after some rounds."""
    return {
        "episodes": len(points[0].driven),
        "rounds": rounds,
        "rows": [row_of(point, config.deadline_ms, config.robots, config.load_rows) for point in points],
        "comparisons": comparisons(points),
        "by episode": [
            {
                "load": point.load,
                "contestant": point.contestant,
                "seed": one.seed,
                "success": one.success,
                "ticks": one.ticks,
                "misses": one.misses,
            }
            for point in points
            for one in sorted(point.driven, key=lambda one: one.seed)
        ],
    }


def _robot(config: FleetBenchConfig, spec: PolicySpec) -> Robot:
    """The robot of the task, without a server yet. Raises ValueError if task, policy and settings do not fit."""
    from sorl_client.drive import CannotDrive, check_fit
    from sorl_client.episodes import control_hz

    from training.tasks import make_task

    task = config.task or (spec.provenance.environment if spec.provenance else None)
    if not task:
        raise ValueError("task: the policy does not say its own; name one with --task")
    with closing(make_task(task)) as env:
        try:
            check_fit(env, {"name": spec.name, "obs_dim": spec.obs_dim, "action_dim": spec.action_dim}, task)
        except CannotDrive as error:
            raise ValueError(f"task: {error}") from None
        fastest = control_hz(env)
    hz = config.hz or fastest
    if hz > fastest:
        raise ValueError(f"hz must be at most the task's {fastest:g}, got {hz:g}")
    if config.deadline_ms > (longest := 1e3 * spec.action_horizon / hz):
        raise ValueError(f"deadline_ms must be at most {longest:g}, until the next request; got {config.deadline_ms:g}")
    return Robot("", task, hz, config.deadline_ms, spec.action_horizon, config.max_steps)


def _rounds(
    config: FleetBenchConfig, url: str, obs_dim: int, rules: tuple[Rule, ...], fleet: Fleet, full: float
) -> Iterator[list[Point]]:
    """The points, after each round: all that was measured so far."""
    from tqdm import tqdm

    points = {(load, rule.name): Point(load, rule.name) for load in config.loads for rule in rules}
    seeds = range(config.first_seed, config.first_seed + config.episodes)
    with tqdm(total=len(points) * config.episodes, unit="episode") as progress:
        for number in range(config.rounds):
            part = seeds[number :: config.rounds]
            for load in config.loads:
                for rule in rules if number % 2 == 0 else rules[::-1]:
                    progress.set_description(f"load {load:g}, {rule.name}")
                    fields = {"observation": observations(obs_dim, config.load_rows), **rule.fields}
                    beside = OpenLoad(
                        url,
                        fields,
                        load * full,
                        1.0,
                        config.deadline_ms,
                        4 * config.deadline_ms,
                        number,
                        transit_ms=config.load_transit_ms,
                    )
                    drives = [Drive(seed, rule.fields) for seed in part]
                    _drive(fleet, drives, beside, points[load, rule.name], progress.update)
            yield [*points.values()]


def _drive(fleet: Fleet, drives: list[Drive], beside: OpenLoad, point: Point, driven: Callable[[], object]) -> None:
    """Drive beside the load, if there is any. What comes of both is added to `point`; `driven` is told of episodes."""
    with loading(beside) if beside.rate else nullcontext() as finish:
        if finish is not None:
            time.sleep(WARM_UP_SECONDS)
        for episode in fleet.drive(drives):
            point.driven.append(episode)
            driven()
        if finish is not None:
            point.samples += finish()


def failed(report: dict[str, Any]) -> bool:
    """Whether a robot's request failed otherwise than by a refusal or its deadline."""
    return any(row["failed"] for row in report["rows"])


def main(arguments: list[str]) -> int:
    """See `FleetBenchConfig`."""
    return run_subcommand("fleet", FleetBenchConfig, arguments, run, print_report, failed)
