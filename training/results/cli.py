"""`sorl-results`: measures policies by the rules of docs/results/README.md; writes tables, plots and pages."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from kernels.commands import command
from policy import CheckpointError
from training.arguments import parse_arguments
from training.files import OutputError, require_folder
from training.ranges import (
    CANDIDATES,
    EPISODE_SEED,
    EPISODES,
    MOST_WORKERS,
    STEPS,
    OneOrMore,
    Range,
    require_ranges,
)
from training.results.errors import ResultsError
from training.results.experiments import Experiment, TaskExperiments, curve_of, require_steps, subject_of
from training.results.measurements import Measurements
from training.results.page import write_page
from training.results.plan import Plan, Subject
from training.results.plots import draw_plots
from training.results.protocol import REPORT_EPISODES, Protocol, Seeds
from training.results.runs import Checkpoint, Run, find_runs
from training.results.tables import build_tables, write_tables

DEFAULTS = Protocol()


@dataclass(frozen=True)
class ResultsConfig:
    """Test the paper's claims on policies: run what has not been run, then write tables, plots and a page per task.

    The command may be interrupted at any time; the same command continues. Nothing is measured twice. A page shows the
    policies that the last command named; with --add, also those that it showed before. Measurements of others stay.
    """

    policies: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders or .safetensors files. Every experiment is run on each; every task among them gets a page."""
    curves: tuple[Path, ...] = ()
    """Further run folders, for learning curves only."""
    add: bool = False
    """Add these policies to those that the page shows already, whose files may be gone, instead of replacing them."""
    out: Path = Path("docs/results")
    """Folder of the pages and of the folders of measurements."""
    checkpoint: Literal["last", "best"] = "last"
    """Which policy of a run folder: the last, or the one of highest success over the curve cells on selection seeds."""
    only: tuple[Experiment, ...] = ("grid", "claims", "verifier", "latency", "shortcut", "curves")
    """Experiments to run now, in this order. The page lists missing ones as not run."""
    render: tuple[Path, ...] = ()
    """Run nothing; write the pages of these folders (e.g. docs/results/TASK) again from what they hold."""

    num_candidates: Annotated[tuple[Annotated[int, CANDIDATES], ...], OneOrMore()] = DEFAULTS.num_candidates
    """Numbers of candidates N of the grid."""
    num_steps: Annotated[tuple[Annotated[int, STEPS], ...], OneOrMore()] = DEFAULTS.num_steps
    """Numbers of steps M of the grid. The claim about steps compares the smallest and the largest at N = 1."""
    many_candidates: Annotated[int, CANDIDATES] = DEFAULTS.many_candidates
    """N that the claims about candidates and about the critic's choice compare with 1, at the best cell's M."""
    verifier_candidates: Annotated[tuple[Annotated[int, CANDIDATES], ...], OneOrMore()] = DEFAULTS.verifier_candidates
    """N at which random and worst candidates are executed, on selection seeds."""
    curve_cells: tuple[tuple[Annotated[int, CANDIDATES], Annotated[int, STEPS]], ...] = DEFAULTS.curve_cells
    """N and M of the learning curves, e.g. 1 4 32 4."""
    quartile_cells: tuple[tuple[Annotated[int, CANDIDATES], Annotated[int, STEPS]], ...] = DEFAULTS.quartile_cells
    """N and M at which the candidate at the upper quartile of Q (rank N // 4 from 0) is executed on report seeds, and
    compared with the best and with one candidate, e.g. 64 8. With --add they join those that the page has."""
    episodes: Annotated[int, EPISODES] = DEFAULTS.selection.episodes
    """Selection episodes per cell, for grid, verifier and learning curves."""
    first_seed: Annotated[int, EPISODE_SEED] = DEFAULTS.selection.first
    """First selection seed."""
    report_episodes: Annotated[int, EPISODES] = REPORT_EPISODES
    """Report episodes per cell, for headline and claims. The rules ask for at least 200. A page with fewer says so."""
    report_first_seed: Annotated[int, EPISODE_SEED] = DEFAULTS.report.first
    """First report seed."""

    processes: Annotated[int, Range(0, MOST_WORKERS)] = 0
    """Worker processes, one compute thread each. 0 means one per available core."""
    lanes: Annotated[int, Range(1, MOST_WORKERS)] = 8
    """Environments per process. Their requests share one batch."""

    def __post_init__(self) -> None:
        require_ranges(self, ResultsError)
        if bool(self.policies or self.curves) == bool(self.render):
            raise ResultsError("name either policies to measure or folders to --render, not both")

    def protocol(self) -> Protocol:
        """The protocol with these settings. Raises ResultsError if it is impossible."""
        return Protocol(
            num_candidates=tuple(sorted(self.num_candidates)),
            num_steps=tuple(sorted(self.num_steps)),
            selection=Seeds(self.first_seed, self.episodes),
            report=Seeds(self.report_first_seed, self.report_episodes),
            many_candidates=self.many_candidates,
            verifier_candidates=tuple(sorted(self.verifier_candidates)),
            curve_cells=self.curve_cells,
            quartile_cells=self.quartile_cells,
        )


def run(config: ResultsConfig) -> list[Path]:
    """Measure and render, or only render. Returns the pages' paths.

    Raises:
        OutputError: a folder cannot be written; nothing has been run.
        CheckpointError: a policy is damaged, or was replaced meanwhile.
        ResultsError: a policy or folder cannot be measured or rendered; the message says why.
    """
    for flag, folder in (("--out", config.out), *(("--render", folder) for folder in config.render)):
        require_folder(flag, folder)
    if config.render:
        return [render(folder) for folder in config.render]
    protocol = config.protocol()
    subjects, others = find_runs(config.policies), find_runs(config.curves)
    for source in (*subjects, *others):
        require_steps(source, protocol)
    tasks = list(dict.fromkeys(source.task for source in (*subjects, *others)))
    return [
        study(
            TaskExperiments(config.out / task, protocol, config.processes, config.lanes),
            [source for source in subjects if source.task == task],
            [source for source in others if source.task == task],
            config.checkpoint,
            config.only,
            config.add,
        )
        for task in tasks
    ]


def study(
    experiments: TaskExperiments,
    subjects: list[Run],
    others: list[Run],
    checkpoint: Literal["last", "best"] = "last",
    only: tuple[Experiment, ...] = ResultsConfig.only,
    add: bool = False,
) -> Path:
    """Run the experiments of one task and render its page. Returns the page's path.

    Args:
        experiments: the task's experiments and their folder.
        subjects: runs whose policies every experiment is run on.
        others: runs for learning curves only.
        checkpoint, only, add: see `ResultsConfig`.

    Raises:
        ResultsError: as `run`. With `add`, also if the page was measured by another protocol; nothing is run then.
    """
    folder = experiments.folder
    shown = Plan.read(folder / "plan.json") if add and (folder / "plan.json").exists() else None
    if shown:
        experiments.protocol = shown.joined_protocol(experiments.protocol)
    curved = [run for run in (*subjects, *others) if len(run.checkpoints) > 1]
    if checkpoint == "best":
        for source in subjects:
            experiments.curve(source)
    chosen: list[tuple[Subject, Checkpoint]] = []
    for source in subjects:
        point = experiments.best_checkpoint(source) if checkpoint == "best" else source.last
        chosen.append((subject_of(source, point, checkpoint == "best"), point))
        experiments.record(point)
    task = (*subjects, *others)[0].task
    plan = Plan(task, experiments.protocol, tuple(subject for subject, _ in chosen), tuple(map(curve_of, curved)))
    plan = shown.merged_with(plan) if shown else plan
    plan.write(folder / "plan.json")
    for subject, point in chosen:
        experiments.measure(point, subject.label, only)
    if "curves" in only:
        for source in curved:
            experiments.curve(source)
    return render(folder)


def render(folder: Path) -> Path:
    """Write tables, plots and page of one task from what `folder` holds; nothing is run. Returns the page's path.

    Raises:
        ResultsError: the folder was not made by `sorl-results`, or is damaged.
    """
    folder = folder.resolve() if folder.name in ("", "..") else folder
    measurements = Measurements(Plan.read(folder / "plan.json"), folder)
    tables = build_tables(measurements)
    write_tables(tables, folder)
    draw_plots(tables, measurements, folder)
    page = folder.with_name(f"{folder.name}.md")
    write_page(tables, measurements, page)
    return page


@command(
    "sorl-results",
    CheckpointError,
    FloatingPointError,
    OutputError,
    ResultsError,
    interrupted="interrupted: run the same command again to continue",
)
def main() -> None:
    """`sorl-results`."""
    try:
        pages = run(parse_arguments(ResultsConfig))
    except BrokenProcessPool:
        raise SystemExit("sorl-results: a worker process died; run the same command again to continue") from None
    for page in pages:
        print(page)
