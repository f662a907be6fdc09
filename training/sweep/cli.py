"""`sorl-sweep`: flags and file -> plan -> Ray -> table."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from kernels.commands import command
from kernels.threads import available_cores
from training.data import DatasetError
from training.episode_table import EpisodeTableError
from training.files import write_json
from training.sweep.cluster import connected, import_ray, require_resources
from training.sweep.comparison import Comparison, compare, format_comparisons
from training.sweep.description import make_sweep, read_description
from training.sweep.errors import SettingError, SweepError
from training.sweep.folder import locked, read_result
from training.sweep.page import write_page
from training.sweep.plan import Run, Sweep, plan, require_inputs
from training.sweep.runner import Outcome, Resources, run_all
from training.sweep.settings import parse_assignment
from training.sweep.table import Row, as_json, format_table, make_rows, write_csv


@dataclass(frozen=True)
class SweepConfig:
    """Train and evaluate tasks x settings x seeds as Ray tasks, and compare them (resumable: run it again).

    Finished runs are skipped, interrupted ones continue, failed ones are tried again. On several machines, OUT and the
    datasets must have the same paths everywhere: a shared file system.
    """

    file: tyro.conf.Positional[Path | None] = None
    """A TOML file: tasks, seeds, updates, [settings], [grid] or [[variants]], [[evaluate]]. Name it first; flags add to
    it."""
    out: Path | None = None
    """Runs go to OUT/TASK/SETTING/seed-SEED, the table to OUT/summary.json and .csv; without it, runs/FILE."""
    tasks: tuple[str, ...] = ()
    """OGBench single-task names."""
    seeds: tuple[int, ...] = ()
    """Seeds of every setting; without them, 0."""
    updates: int | None = None
    """Gradient updates of every run."""
    set: tuple[str, ...] = ()
    """Settings of all runs, NAME=VALUE; names are sorl-train's, values as in TOML or bare words."""
    grid: tuple[str, ...] = ()
    """Settings to combine, NAME=VALUE,VALUE: q_agg=mean,min 'hidden=[128,128],[256,256]'."""
    variants: tuple[str, ...] = ()
    """Single changes in place of a grid, NAME=VALUE: the plain settings are run too, and each change is compared with
    them seed by seed. A file can change several settings at once."""
    num_candidates: tuple[int, ...] = ()
    """N of the evaluations' cells."""
    num_steps: tuple[int, ...] = ()
    """M of the evaluations' cells."""
    episodes: int | None = None
    """Episodes a cell."""
    first_seeds: tuple[int, ...] = ()
    """An evaluation from each of these episode seeds; any of these four flags replaces the file's [[evaluate]]."""
    data_dir: Path = Path("data")
    """Where datasets are, for runs whose settings do not name one."""

    address: str | None = None
    """A Ray cluster, "auto" for the one this machine belongs to; without it, a local Ray is started."""
    cpus_per_run: float = 1.0
    """Cores of a run: compute threads, then evaluation processes."""
    gpus_per_run: float = 0.0
    """GPUs of a run, which then trains on "cuda"; a fraction shares one among runs."""
    local_cpus: int = 0
    """Cores of the local Ray; 0 means all available."""
    retries: int = 2
    """Further attempts at a run whose process or Ray worker was killed."""
    status_every: float = 60.0
    """Seconds between lines that say what every running run does."""
    dry_run: bool = False
    """Print the runs, their state and their folders, and start nothing."""
    json: Path | None = None
    """Write the table here instead of OUT/summary.json."""
    csv: Path | None = None
    """Write the table here instead of OUT/summary.csv; comparisons of variants go beside it, to comparisons.csv."""
    page: Path | None = None
    """Write settings, table and comparisons here too, as a page in Markdown."""

    def __post_init__(self) -> None:
        for name, least in (("gpus_per_run", 0), ("local_cpus", 0), ("retries", 0)):
            if getattr(self, name) < least:
                raise SettingError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("cpus_per_run", "status_every"):
            if not getattr(self, name) > 0:
                raise SettingError(f"{name} must be positive, got {getattr(self, name)}")

    def folder(self) -> Path:
        """OUT, absolute."""
        return (self.out or Path("runs") / (self.file.stem if self.file else "sweep")).absolute()


def describe(config: SweepConfig) -> Sweep:
    """The file's sweep, with what the flags say instead or in addition.

    Raises:
        SweepError: in either, something does not exist, does not fit or is missing.
    """
    description: dict[str, Any] = read_description(config.file) if config.file else {}
    for name in ("tasks", "seeds", "updates"):
        if getattr(config, name) not in ((), None):
            description[name] = getattr(config, name)
    for name, flag in (("settings", "--set"), ("grid", "--grid")):
        texts = config.set if name == "settings" else config.grid
        assignments = dict(parse_assignment(flag, text) for text in texts)
        if name == "settings":
            assignments = {key: _single(flag, key, values) for key, values in assignments.items()}
        if assignments:
            description[name] = {**description.get(name, {}), **assignments}
    if config.variants:
        changes = [parse_assignment("--variants", text) for text in config.variants]
        added = [{key: _single("--variants", key, values)} for key, values in changes]
        description["variants"] = [*description.get("variants", []), *added]
    cells = {name: getattr(config, name) for name in ("num_candidates", "num_steps", "episodes")}
    cells = {name: value for name, value in cells.items() if value not in ((), None)}
    if config.first_seeds:
        description["evaluate"] = [{**cells, "first_seed": seed} for seed in config.first_seeds]
    elif cells:
        description["evaluate"] = [cells]
    return make_sweep(description)


def _single(flag: str, name: str, values: list[Any]) -> Any:
    if len(values) != 1:
        raise SettingError(f"{flag}: {name} must have one value, got {values}; several belong to --grid")
    return values[0]


def make_plan(config: SweepConfig) -> list[Run]:
    """The runs, on the device that they are granted.

    Raises:
        SweepError: see `describe` and `plan`; or "cuda" is asked for without --gpus-per-run.
    """
    sweep = describe(config)
    if config.gpus_per_run and "device" not in sweep.settings.keys() | sweep.grid.keys():
        sweep = replace(sweep, settings={**sweep.settings, "device": "cuda"})
    runs = plan(sweep, config.folder(), config.data_dir, config.cpus_per_run)
    for run in runs:
        if run.config.device.startswith("cuda") and not config.gpus_per_run:
            raise SettingError(
                f"{run.name}: device {run.config.device!r} needs --gpus-per-run: Ray hides GPUs otherwise"
            )
    return runs


def sweep(config: SweepConfig) -> dict[str, Outcome]:
    """Do all of it. Returns run name -> outcome.

    Raises:
        SweepError, DatasetError: before anything has started.
    """
    runs = make_plan(config)
    require_inputs(runs)
    if config.dry_run:
        print(format_plan(runs))
        return {}
    outcomes = _run(config, runs)
    report(config, runs, outcomes)
    return outcomes


def _run(config: SweepConfig, runs: Sequence[Run]) -> dict[str, Outcome]:
    if all(map(read_result, runs)):
        return {run.name: Outcome("skipped") for run in runs}
    import_ray()
    cpus = config.local_cpus or available_cores()
    with locked(config.folder() / ".lock", wait=False), connected(config.address, cpus) as ray:
        require_resources(ray, config.cpus_per_run, config.gpus_per_run)
        resources = Resources(config.cpus_per_run, config.gpus_per_run, config.retries, config.status_every)
        return run_all(ray, runs, resources)


def format_plan(runs: Sequence[Run]) -> str:
    """A line for every run: its state and its folder."""
    lines = []
    for run in runs:
        begun = (run.folder / "resume.pt").exists()
        state = "finished" if read_result(run) else "begun" if begun else "new"
        lines.append(f"{state:<8}  {run.folder}")
    return "\n".join([*lines, f"{len(runs)} runs"])


def report(config: SweepConfig, runs: Sequence[Run], outcomes: dict[str, Outcome]) -> None:
    """Print the table, comparisons and what failed; write summary.json, the CSV files and the page."""
    results = {run.name: result for run in runs if (result := read_result(run))}
    rows = make_rows(runs, results)
    comparisons = compare(runs, set(results))
    summary = {
        "runs": [{"name": run.name, "folder": str(run.folder), **asdict(outcomes[run.name])} for run in runs],
        "rows": [as_json(row) for row in rows],
        "comparisons": [as_json(row) for row in comparisons],
    }
    json_path, csv_path = (config.folder() / f"summary.{kind}" for kind in ("json", "csv"))
    csv_path = config.csv or csv_path
    write_json(config.json or json_path, summary)
    write_csv(csv_path, Row, rows)
    if comparisons:
        write_csv(csv_path.with_name("comparisons.csv"), Comparison, comparisons)
    if config.page:
        write_page(config.page, runs, results, rows, comparisons)
    if results:
        print(format_table(rows, shutil.get_terminal_size((120, 24)).columns))
    if comparisons:
        print(format_comparisons(comparisons))
    for name, outcome in outcomes.items():
        if outcome.state == "failed":
            print(f"failed: {name}: {outcome.error}")
    counts = Counter(outcome.state for outcome in outcomes.values())
    print(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))


@command("sorl-sweep", SweepError, DatasetError, EpisodeTableError)
def main() -> int:
    """`sorl-sweep`. The exit status: 0 if every run is finished, 1 if one failed, 130 if one was interrupted."""
    states = {outcome.state for outcome in sweep(tyro.cli(SweepConfig)).values()}
    if "interrupted" in states:
        raise KeyboardInterrupt("interrupted and saved: run the same command again to continue")
    return 1 if "failed" in states else 0


if __name__ == "__main__":
    sys.exit(main())
