"""`sorl-export`: writes a trained policy as a file to ship, with its measurements inside and a model card beside it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from sorl_client.statistics import wilson_interval

from kernels.commands import command
from policy import Budget, CheckpointError, Measurement, Policy, PolicySpec, best_measured, dominating, load_policy
from training.arguments import parse_arguments
from training.config import parse_observation_keys
from training.files import require_file, write_text
from training.ranges import CANDIDATES, STEPS, Range, flag, require_ranges
from training.release.card import model_card, summary
from training.release.readback import save_and_read_back
from training.results import Cell, Plan, Record, ResultsError, Seeds, best_cell, record_folder
from training.unmeasured import as_trained

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportConfig:
    """Add name, frontier, headline and default budget to a policy, and write it with a model card."""

    policy: tyro.conf.Positional[Path]
    """A policy.safetensors, or a run folder that holds one."""
    out: Path
    """The file to write, e.g. deploy/policies/cube-single.safetensors. Its card is cube-single.md beside it."""
    name: str | None = None
    """Name under which the service offers the policy. Default: the output's file name."""
    frontier: tuple[Path, ...] = ()
    """Reports of `sorl-evaluate --json` on selection seeds: success by budget."""
    headline: Path | None = None
    """Report of `sorl-evaluate --json` with one cell, on seeds that were not used to choose it."""
    results: Path | None = None
    """In place of --frontier: a folder of `sorl-results`, e.g. docs/results/TASK. The frontier is its grid on selection
    seeds. The headline is its best cell on report seeds, unless --headline is given."""
    default_budget: tuple[Annotated[int, CANDIDATES], Annotated[int, STEPS]] | None = None
    """N and M of a request that names neither. Default: the headline's; without a headline, those of the frontier's
    most successful cell, ties to the least compute."""
    observation_keys: str | None = None
    """Names and sizes of the observation's parts in their order, e.g. joint_pos=7,gripper=1: robots may then send parts
    by name. Default: the policy's own."""
    coherence: Annotated[float, Range(0, 1)] | None = None
    """Of policies with chunks: the weight of committed actions in a request that names none, 0 to 1. Default: the
    policy's own."""
    temperature: Annotated[float, Range(0, 2)] | None = None
    """Scale of the flow's noise in a request that names none, 0 to 2, at which reports and results were measured.
    Default: the policy's own."""
    notes: str | None = None
    """Notes on the card, e.g. on settings other than the paper's, wall time or surprises."""
    as_trained: bool = False
    """Add no measurements, and remove those that the policy has, with name, default budget and notes. The file of an
    export is then to the byte what `sorl-train` wrote: its sha256 is the one that pages of results name, and
    `sorl-results --add` goes on with it."""

    def __post_init__(self) -> None:
        require_ranges(self)
        parse_observation_keys(self.observation_keys)
        if self.out.suffix == ".md":
            raise ValueError(
                f"--out must name the policy's file, e.g. {self.out.with_suffix('.safetensors')}, "
                "since its card is the .md beside it"
            )
        added = ("frontier", "headline", "results", "default_budget", "notes")
        if self.as_trained and (given := [name for name in added if getattr(self, name)]):
            raise ValueError(f"--as-trained removes measurements; leave out {flag(given[0])}")


def export(config: ExportConfig) -> Policy:
    """Write the policy and its card. Returns the policy as read back from `config.out`.

    Raises:
        OutputError: `out` or its card cannot be written.
        CheckpointError: the policy is damaged, `observation_keys` do not fit it, or what was read back differs from
            what was written.
        ValueError: a report does not belong to this policy, or frontier and headline share seeds.
        ResultsError: the folder `results` is damaged.
    """
    for path in (config.out, config.out.with_suffix(".md")):
        require_file("--out", path)
    source = config.policy / "policy.safetensors" if config.policy.is_dir() else config.policy
    policy = load_policy(source)
    if config.temperature is not None:
        _set_temperature(policy, config.temperature)
    if config.as_trained:
        policy.spec = as_trained(policy.spec)
    frontier, headline = (
        _measurements_of_reports(config, policy) if config.results is None else _measurements_of_results(config, policy)
    )
    spec = replace(policy.spec, name=config.name or (policy.spec.name if config.as_trained else config.out.stem))
    if frontier:
        frontier.sort(key=lambda cell: (cell.num_candidates, cell.num_steps))
        spec = replace(spec, frontier=tuple(frontier))
    if headline:
        spec = replace(spec, headline=headline)
    if chosen := headline or best_measured(frontier):
        spec = replace(spec, default_budget=Budget(chosen.num_candidates, chosen.num_steps))
    if config.default_budget:
        spec = replace(spec, default_budget=Budget(*config.default_budget))
    _warn_of_a_dominated_default(spec)
    if config.observation_keys is not None:
        spec = replace(spec, observation_keys=parse_observation_keys(config.observation_keys))
    if config.coherence is not None:
        spec = replace(spec, coherence=config.coherence)
    if config.notes is not None:
        spec = replace(spec, provenance=replace(spec.provenance, notes=config.notes))
    policy.spec = spec
    written = save_and_read_back(policy, config.out)
    write_text(config.out.with_suffix(".md"), model_card(written, config.out.name))
    return written


def _set_temperature(policy: Policy, temperature: float) -> None:
    """What was measured at another temperature is left out of the specification."""
    spec = replace(policy.spec, temperature=temperature)
    if temperature != policy.spec.temperature and (spec.frontier or spec.headline):
        log.warning("the frontier and headline of temperature %g are left out", policy.spec.temperature)
        spec = replace(spec, frontier=(), headline=None)
    policy.spec = spec


def _check_temperature(where: Path, found: float, policy: Policy) -> None:
    if found != policy.spec.temperature:
        raise ValueError(
            f"{where} measured the policy at temperature {found:g}, and it is exported with {policy.spec.temperature:g}"
        )


def _warn_of_a_dominated_default(spec: PolicySpec) -> None:
    n, m = spec.default_budget.num_candidates, spec.default_budget.num_steps
    for cell in spec.frontier:
        if (cell.num_candidates, cell.num_steps) == (n, m) and (better := dominating(cell, spec.frontier)):
            log.warning(
                "the default budget N = %d, M = %d is dominated: "
                "N = %d, M = %d costs less and measured %.1f %% against its %.1f %%",
                *(n, m, better.num_candidates, better.num_steps, 100 * better.success, 100 * cell.success),
            )


def _measurements_of_reports(config: ExportConfig, policy: Policy) -> tuple[list[Measurement], Measurement | None]:
    frontier = [_read(path, policy) for path in config.frontier]
    cells = [_measurement(cell) for report in frontier for cell in report["cells"]]
    seeds = {seed for report in frontier for seed in _seeds(report)}
    return cells, _headline(config.headline, policy, seeds) if config.headline else None


def _measurements_of_results(config: ExportConfig, policy: Policy) -> tuple[list[Measurement], Measurement | None]:
    assert config.results is not None
    if config.frontier:
        raise ValueError("give either --results or --frontier, not both")
    protocol = Plan.read(config.results / "plan.json").protocol
    folder = record_folder(config.results, policy.version)
    if not folder.exists():
        raise ValueError(f"{config.results} holds no measurement of this file (sha256 {policy.version[:12]})")
    record = Record(folder)
    _check_temperature(config.results, record.facts["temperature"], policy)
    best = best_cell(record, protocol)
    if best is None:
        raise ValueError(f"{config.results}: the grid is not complete; run sorl-results again")
    grid = [_measured(record, cell, protocol.selection) for cell in protocol.grid()]
    if config.headline:
        headline: Measurement | None = _headline(config.headline, policy, set(protocol.selection.range))
    else:
        headline = _measured(record, best, protocol.report)
    return [cell for cell in grid if cell is not None], headline


def _headline(path: Path, policy: Policy, selection: set[int]) -> Measurement:
    """The one cell of a report that shares no seed with `selection`."""
    report = _read(path, policy)
    if len(report["cells"]) != 1:
        raise ValueError(f"{path}: a headline is one cell, found {len(report['cells'])}")
    if shared := selection & _seeds(report):
        raise ValueError(f"frontier and headline share {len(shared)} episode seeds: seeds that choose must not report")
    return _measurement(report["cells"][0])


def _measured(record: Record, cell: Cell, seeds: Seeds) -> Measurement | None:
    """A cell's success; None if some of its episodes have not been run."""
    rows = record.rows(cell, seeds)
    if rows is None:
        return None
    successes = sum(row.success for row in rows)
    low, high = wilson_interval(successes, len(rows))
    return Measurement(cell.num_candidates, cell.num_steps, successes / len(rows), low, high, len(rows))


def _read(path: Path, policy: Policy) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_text())
    if report["policy_sha256"] != policy.version:
        raise ValueError(
            f"{path} measured another file (sha256 {report['policy_sha256'][:12]}, not {policy.version[:12]})"
        )
    if report.get("select", "best") != "best":
        raise ValueError(f"{path} executed the {report['select']} candidate, but the service executes the best")
    _check_temperature(path, report.get("temperature", 1.0), policy)
    horizon = policy.spec.action_horizon
    for cell in report["cells"]:
        if (execute := cell.get("execute", 1)) != horizon:  # reports from before there were chunks do not say
            raise ValueError(
                f"{path}: a cell executed {execute} of a reply's {horizon} actions; a frontier has them all"
            )
    return report


def _seeds(report: dict[str, Any]) -> set[int]:
    return set(range(report["first_seed"], report["first_seed"] + report["episodes"]))


def _measurement(cell: dict[str, Any]) -> Measurement:
    return Measurement(**{field.name: cell[field.name] for field in fields(Measurement)})


@command("sorl-export", CheckpointError, ResultsError, ValueError, OSError)
def main() -> None:
    """`sorl-export`."""
    config = parse_arguments(ExportConfig)
    print(f"{config.out}\n{summary(export(config))}")
