"""`sorl-sweep`: plans runs from flags and a file, runs them on Ray, and writes their table."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from kernels.commands import command
from kernels.threads import available_cores
from training.arguments import parse_arguments
from training.data import DatasetError
from training.episode_table import EpisodeTableError
from training.files import OutputError, require_file, require_folder, write_json
from training.ranges import (
    CANDIDATES,
    EPISODE_SEED,
    EPISODES,
    MOST,
    MOST_WORKERS,
    POSITIVE,
    STEPS,
    TRAINING_SEED,
    Range,
    require_ranges,
)
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
    """Train and evaluate tasks x settings x seeds on Ray, and compare them (resumable: run the same command again).

    Finished runs are skipped, interrupted ones continue, failed ones are tried again. On several machines, OUT and the
    datasets must be on a file system that all of them see under the same paths.
    """

    file: tyro.conf.Positional[Path | None] = None
    """A TOML file with tasks, seeds, updates, [settings], [grid] or [[variants]], and [[evaluate]]. Name it first;
    flags add to it."""
    out: Path | None = None
    """Runs are written to OUT/TASK/SETTING/seed-SEED, the table to OUT/summary.json and .csv. Default: runs/FILE."""
    tasks: tuple[str, ...] = ()
    """OGBench single-task names."""
    seeds: tuple[Annotated[int, TRAINING_SEED], ...] = ()
    """Training seeds of every setting. Default: 0."""
    updates: Annotated[int, Range(1, MOST)] | None = None
    """Gradient updates of every run."""
    set: tuple[str, ...] = ()
    """Settings of all runs, NAME=VALUE. Names are sorl-train's; values are written as in TOML, or as bare words."""
    grid: tuple[str, ...] = ()
    """Settings to combine, NAME=VALUE,VALUE, e.g. q_agg=mean,min 'hidden=[128,128],[256,256]'."""
    variants: tuple[str, ...] = ()
    """Single changes in place of a grid, NAME=VALUE. The unchanged settings are run too, and each change is compared
    with them seed by seed. In a file, one variant can change several settings."""
    num_candidates: tuple[Annotated[int, CANDIDATES], ...] = ()
    """Numbers of candidates N of the evaluations' cells."""
    num_steps: tuple[Annotated[int, STEPS], ...] = ()
    """Numbers of steps M of the evaluations' cells."""
    episodes: Annotated[int, EPISODES] | None = None
    """Episodes per cell."""
    first_seeds: tuple[Annotated[int, EPISODE_SEED], ...] = ()
    """First episode seeds, one evaluation for each. Any of these four flags replaces the file's [[evaluate]]."""
    data_dir: Path = Path("data")
    """Folder of the datasets, for runs whose settings do not name one."""

    address: str | None = None
    """Address of a Ray cluster; "auto" finds the one that this machine belongs to. Default: start a local Ray."""
    cpus_per_run: Annotated[float, Range(0, MOST_WORKERS, above=True)] = 1.0
    """Cores per run, for compute threads while training and for processes while evaluating."""
    gpus_per_run: Annotated[float, Range(0, MOST_WORKERS)] = 0.0
    """GPUs per run, which then trains on "cuda". With a fraction, runs share a GPU."""
    local_cpus: Annotated[int, Range(0, MOST_WORKERS)] = 0
    """Cores of the local Ray. 0 means all available ones."""
    retries: Annotated[int, Range(0, MOST)] = 2
    """Further attempts after a run's process or Ray worker was killed."""
    status_every: Annotated[float, POSITIVE] = 60.0
    """Seconds between status lines of the running runs."""
    dry_run: bool = False
    """Print the runs with their states and folders, and start nothing."""
    json: Path | None = None
    """File of the table in place of OUT/summary.json."""
    csv: Path | None = None
    """File of the table in place of OUT/summary.csv. Comparisons of variants go to comparisons.csv beside it."""
    page: Path | None = None
    """Also write settings, table and comparisons to this file, as a page in Markdown."""

    def __post_init__(self) -> None:
        require_ranges(self, SettingError)

    def folder(self) -> Path:
        """OUT as an absolute path."""
        return (self.out or Path("runs") / (self.file.stem if self.file else "sweep")).absolute()


def describe(config: SweepConfig) -> Sweep:
    """The sweep that file and flags describe together; flags replace or extend what the file says.

    Raises:
        SweepError: a name in either is unknown, a value does not fit its field, or something is missing.
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
    """The sweep's runs, on "cuda" if they get GPUs.

    Raises:
        SweepError: as `describe` and `plan`; or a run asks for "cuda" without --gpus-per-run.
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
    """Plan, run and report. Returns run name -> outcome.

    Raises:
        OutputError, SweepError, DatasetError: nothing has been started.
        EpisodeTableError: episodes of a finished run are damaged.
    """
    runs = make_plan(config)
    require_folder("--out", config.folder())
    for flag, path in (("--json", config.json), ("--csv", config.csv), ("--page", config.page)):
        if path:
            require_file(flag, path)
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
    """One line per run: its state and its folder."""
    lines = []
    for run in runs:
        begun = (run.folder / "resume.pt").exists()
        state = "finished" if read_result(run) else "begun" if begun else "new"
        lines.append(f"{state:<8}  {run.folder}")
    return "\n".join([*lines, f"{len(runs)} runs"])


def report(config: SweepConfig, runs: Sequence[Run], outcomes: dict[str, Outcome]) -> None:
    """Print table, comparisons and failures; write summary.json, the CSV files and the page."""
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


@command("sorl-sweep", OutputError, SweepError, DatasetError, EpisodeTableError)
def main() -> int:
    """`sorl-sweep`. The exit status: 0 if every run is finished, 1 if one failed, 130 if one was interrupted."""
    states = {outcome.state for outcome in sweep(parse_arguments(SweepConfig)).values()}
    if "interrupted" in states:
        raise KeyboardInterrupt("interrupted and saved: run the same command again to continue")
    return 1 if "failed" in states else 0


if __name__ == "__main__":
    sys.exit(main())
