"""`sorl-results`: measure policies as docs/results/README.md says, and write tables, plots and a page a task."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from kernels.backend import NonFiniteOutput
from kernels.commands import command
from policy import CheckpointError
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
    """Test the paper's claims on policies: run what has not been run, then write tables, plots and a page a task.

    Interrupt it at any time: the same command continues. A page shows the policies that the last command named;
    measurements of others stay, and nothing is measured twice. With --add it goes on showing what it showed before.
    """

    policies: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders or .safetensors files: every experiment is run on each. One page for every task among them."""
    curves: tuple[Path, ...] = ()
    """Further run folders, for the learning curves alone."""
    add: bool = False
    """Add to what a page shows already, whose policy files may be gone, in place of showing these policies alone."""
    out: Path = Path("docs/results")
    """Where pages and folders of measurements are written."""
    checkpoint: Literal["last", "best"] = "last"
    """Of a run folder: its last policy, or the kept one of highest success over the curve cells, on selection seeds."""
    only: tuple[Experiment, ...] = ("grid", "claims", "verifier", "latency", "shortcut", "curves")
    """Experiments to run now, in this order; what is left out and missing is listed on the page as not run."""
    render: tuple[Path, ...] = ()
    """Run nothing: write the pages of these folders (say docs/results/TASK) again from what they hold."""

    num_candidates: tuple[int, ...] = DEFAULTS.num_candidates
    """N of the grid."""
    num_steps: tuple[int, ...] = DEFAULTS.num_steps
    """M of the grid; the claim about steps compares its smallest and largest at N = 1."""
    many_candidates: int = DEFAULTS.many_candidates
    """N that the claims about candidates and the verifier compare with 1, at the best cell's M."""
    verifier_candidates: tuple[int, ...] = DEFAULTS.verifier_candidates
    """N at which random and worst candidates are executed on the selection seeds."""
    curve_cells: tuple[tuple[int, int], ...] = DEFAULTS.curve_cells
    """N and M of the learning curves, e.g. 1 4 32 4."""
    episodes: int = DEFAULTS.selection.episodes
    """Selection episodes a cell: grid, verifier, learning curves."""
    first_seed: int = DEFAULTS.selection.first
    """First selection seed."""
    report_episodes: int = REPORT_EPISODES
    """Report episodes: headline and claims. The rules ask for at least 200; a page says where there are fewer."""
    report_first_seed: int = DEFAULTS.report.first
    """First report seed."""

    processes: int = 0
    """Worker processes, one compute thread each; 0 means one per available core."""
    lanes: int = 8
    """Environments in a process; their requests share one batch."""

    def __post_init__(self) -> None:
        if bool(self.policies or self.curves) == bool(self.render):
            raise ResultsError("name policies to measure, or folders to --render, not both")
        for name, least in (("processes", 0), ("lanes", 1)):
            if getattr(self, name) < least:
                raise ResultsError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def protocol(self) -> Protocol:
        """The rules with these settings; raises ResultsError for those that can't be."""
        return Protocol(
            num_candidates=tuple(sorted(self.num_candidates)),
            num_steps=tuple(sorted(self.num_steps)),
            selection=Seeds(self.first_seed, self.episodes),
            report=Seeds(self.report_first_seed, self.report_episodes),
            many_candidates=self.many_candidates,
            verifier_candidates=tuple(sorted(self.verifier_candidates)),
            curve_cells=self.curve_cells,
        )


def run(config: ResultsConfig) -> list[Path]:
    """Measure and render, or render alone. Returns the pages.

    Raises:
        CheckpointError: a policy is damaged or was replaced meanwhile.
        ResultsError: see there.
    """
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
    laboratory: TaskExperiments,
    subjects: list[Run],
    others: list[Run],
    checkpoint: Literal["last", "best"] = "last",
    only: tuple[Experiment, ...] = ResultsConfig.only,
    add: bool = False,
) -> Path:
    """One task: run its experiments and render its page, which is returned.

    Raises:
        ResultsError: see there; with `add`, also a page that was measured by other rules, before anything is run.
    """
    folder = laboratory.folder
    shown = Plan.read(folder / "plan.json") if add and (folder / "plan.json").exists() else None
    if shown:
        shown.require_protocol(laboratory.protocol)
    curved = [run for run in (*subjects, *others) if len(run.checkpoints) > 1]
    if checkpoint == "best":
        for source in subjects:
            laboratory.curve(source)
    chosen: list[tuple[Subject, Checkpoint]] = []
    for source in subjects:
        point = laboratory.best_checkpoint(source) if checkpoint == "best" else source.last
        chosen.append((subject_of(source, point, checkpoint == "best"), point))
        laboratory.record(point)
    task = (*subjects, *others)[0].task
    plan = Plan(task, laboratory.protocol, tuple(subject for subject, _ in chosen), tuple(map(curve_of, curved)))
    plan = shown.plus(plan) if shown else plan
    plan.write(folder / "plan.json")
    for subject, point in chosen:
        laboratory.measure(point, subject.label, only)
    if "curves" in only:
        for source in curved:
            laboratory.curve(source)
    return render(folder)


def render(folder: Path) -> Path:
    """Tables, plots and page of one task from what `folder` holds; nothing is run. Returns the page.

    Raises:
        ResultsError: the folder is not one of ours, or is damaged.
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
    NonFiniteOutput,
    ResultsError,
    interrupted="interrupted: run the same command again to continue",
)
def main() -> None:
    """`sorl-results`."""
    try:
        pages = run(tyro.cli(ResultsConfig))
    except BrokenProcessPool:
        raise SystemExit("sorl-results: a worker process died; run the same command again to continue") from None
    for page in pages:
        print(page)
