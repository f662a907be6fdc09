"""`sorl-domain`: the mean over the five tasks of a domain, as papers report it."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kernels.commands import command
from policy import CheckpointError
from training.arguments import parse_arguments
from training.config import non_default_settings
from training.domains.contestants import Contestant, find_contestants
from training.domains.measuring import Rules, learning_curve, measure, selection_rates
from training.domains.page import page, tasks_table, with_table
from training.domains.scores import DomainError, read_scores, write_scores
from training.files import OutputError, read_json, require_file, require_folder, write_json, write_text
from training.ranges import CANDIDATES, EPISODE_SEED, EPISODES, MOST_WORKERS, STEPS, OneOrMore, Range, require_ranges


@dataclass(frozen=True)
class DomainConfig:
    """Score a domain as papers do: the mean over its five single tasks, of policies that one recipe made.

    One (N, M) for the whole domain is chosen on selection seeds of all tasks together and then reported on others. The
    command may be interrupted; the same command continues. Other domains in domains.csv and domains.md stay.
    """

    policies: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders or .safetensors files: for each of the five tasks one policy, or one for each training seed."""
    out: Path = Path("docs/results")
    """Folder of domains.csv, domains.md and the reports in domains/."""
    readme: Path | None = None
    """A Markdown file whose table of means is written anew, between two lines that mark it."""
    curves: bool = False
    """Also evaluate every policy that the run folders have kept, at the chosen (N, M) on selection seeds."""

    num_candidates: Annotated[tuple[Annotated[int, CANDIDATES], ...], OneOrMore()] = (1, 2, 4, 8, 16, 32)
    """Numbers of candidates N to choose from."""
    num_steps: Annotated[tuple[Annotated[int, STEPS], ...], OneOrMore()] = (8,)
    """Numbers of steps M to choose from."""
    episodes: Annotated[int, EPISODES] = 50
    """Selection episodes per policy and cell."""
    first_seed: Annotated[int, EPISODE_SEED] = 10_000
    """First selection seed."""
    report_episodes: Annotated[int, EPISODES] = 200
    """Report episodes per policy."""
    report_first_seed: Annotated[int, EPISODE_SEED] = 20_000
    """First report seed."""
    processes: Annotated[int, Range(0, MOST_WORKERS)] = 0
    """Worker processes, one compute thread each. 0 means one per available core."""
    lanes: Annotated[int, Range(1, MOST_WORKERS)] = 8
    """Environments per process. Their requests share one batch."""

    def __post_init__(self) -> None:
        require_ranges(self, DomainError)
        if not self.policies:
            raise DomainError("name the policies of a domain: run folders or .safetensors files")
        selection = range(self.first_seed, self.first_seed + self.episodes)
        report = range(self.report_first_seed, self.report_first_seed + self.report_episodes)
        if max(selection.start, report.start) < min(selection.stop, report.stop):
            raise DomainError("--first-seed and --report-first-seed: selection and report episodes overlap")

    def rules(self) -> Rules:
        """Budgets and seeds."""
        return Rules(
            tuple(sorted(self.num_candidates)),
            tuple(sorted(self.num_steps)),
            self.first_seed,
            self.episodes,
            self.report_first_seed,
            self.report_episodes,
            self.processes,
            self.lanes,
        )


def run(config: DomainConfig) -> str:
    """Measure a domain and write its tables. Returns the table of its tasks.

    Raises:
        OutputError: a file cannot be written; nothing has been run.
        CheckpointError: a policy is damaged, or was replaced meanwhile.
        DomainError: the policies make no score, or a file is not what it should be; the message says why.
    """
    require_folder("--out", config.out)
    csv, marked = config.out / "domains.csv", None
    if config.readme is not None:
        require_file("--readme", config.readme)
        marked = config.readme.read_text() if config.readme.exists() else ""
    kept = read_scores(csv)
    contestants = find_contestants(config.policies)
    domain = contestants[0].domain
    folder = config.out / "domains" / domain
    scores = measure(folder, contestants, config.rules())
    curve = learning_curve(folder, contestants, config.rules()) if config.curves else []
    write_json(folder / "recipe.json", _recipe(folder, contestants, config.rules()) | {"learning_curve": curve})
    write_scores(csv, [score for score in kept if score.domain != domain] + scores)
    everything = read_scores(csv)
    recipes = [read_json(path) for path in sorted((config.out / "domains").glob("*/recipe.json"))]
    write_text(config.out / "domains.md", page(everything, recipes))
    if config.readme is not None and marked is not None:
        write_text(config.readme, with_table(marked, everything, "docs/results/domains.md"))
    return tasks_table(scores)


def _recipe(folder: Path, contestants: list[Contestant], rules: Rules) -> dict[str, object]:
    """What made the scores: settings, policies, and what the selection episodes said."""
    first = contestants[0]
    differing = non_default_settings({"task": first.task, **first.recipe})
    settings = {name: here for name, (here, _) in differing.items() if name != "updates"}
    if first.recipe["temperature"] != 1:
        settings["temperature"] = first.recipe["temperature"]
    return {
        "domain": first.domain,
        "updates": first.recipe["updates"],
        "dataset_sha256": first.dataset,
        "settings": settings,
        "policies": [
            {"task": one.number, "seed": one.seed, "sha256": one.version, "start_from": one.start}
            for one in contestants
        ],
        "selection": [
            {"num_candidates": n, "num_steps": m, "success": success}
            for (n, m), success in selection_rates(folder, contestants, rules).items()
        ],
    }


@command("sorl-domain", CheckpointError, DomainError, OutputError)
def main() -> None:
    """`sorl-domain`."""
    try:
        print(run(parse_arguments(DomainConfig)))
    except BrokenProcessPool:
        raise SystemExit("sorl-domain: a worker process died; run the same command again to continue") from None
