"""`sorl-export`: a trained policy becomes a file to ship: named, with its measurements inside, then read back."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import tyro

from policy import Budget, CheckpointError, Measurement, Policy, load_policy
from training.readback import save_and_read_back


@dataclass(frozen=True)
class ExportConfig:
    """Attach name, frontier, headline and default budget to a policy, and write it where it is served from."""

    policy: tyro.conf.Positional[Path]
    """A policy.safetensors, or a run folder that holds one."""
    out: Path
    """The file to write, e.g. deploy/policies/cube-single.safetensors."""
    name: str | None = None
    """Name under which the service offers it; without it, the output's file name."""
    frontier: tuple[Path, ...] = ()
    """Reports of `sorl-evaluate --json` on the selection seeds."""
    headline: Path | None = None
    """Report of `sorl-evaluate --json` with ONE cell, on seeds that chose nothing."""
    default_budget: tuple[int, int] | None = None
    """N and M of a request that names neither; without it, the headline's."""
    notes: str | None = None
    """What a reader of the card should know: settings other than the paper's, wall time, surprises."""


def export(config: ExportConfig) -> Policy:
    """Write `config.out`. Returns the policy as read back from it.

    Raises:
        CheckpointError: the policy is damaged, or what was read back is not what was written.
        ValueError: a report does not belong to this policy, or frontier and headline share seeds.
    """
    source = config.policy / "policy.safetensors" if config.policy.is_dir() else config.policy
    policy = load_policy(source)
    frontier = [_read(path, policy) for path in config.frontier]
    headline = _read(config.headline, policy) if config.headline else None
    if headline and len(headline["cells"]) != 1:
        raise ValueError(f"{config.headline}: a headline is one cell, found {len(headline['cells'])}")
    if headline:
        _require_disjoint(frontier, headline)
    spec = replace(policy.spec, name=config.name or config.out.stem)
    if frontier:
        cells = [_measurement(cell) for report in frontier for cell in report["cells"]]
        spec = replace(spec, frontier=tuple(sorted(cells, key=lambda cell: (cell.num_candidates, cell.num_steps))))
    if headline:
        cell = _measurement(headline["cells"][0])
        spec = replace(spec, headline=cell, default_budget=Budget(cell.num_candidates, cell.num_steps))
    if config.default_budget:
        spec = replace(spec, default_budget=Budget(*config.default_budget))
    if config.notes is not None:
        spec = replace(spec, provenance=replace(spec.provenance, notes=config.notes))
    policy.spec = spec
    return save_and_read_back(policy, config.out)


def _read(path: Path, policy: Policy) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_text())
    if report["policy_sha256"] != policy.version:
        raise ValueError(
            f"{path} measured another file (sha256 {report['policy_sha256'][:12]}, not {policy.version[:12]})"
        )
    if report.get("select", "best") != "best":
        raise ValueError(f"{path} executed the {report['select']} candidate, and a policy serves the best")
    return report


def _require_disjoint(frontier: list[dict[str, Any]], headline: dict[str, Any]) -> None:
    def seeds(report: dict[str, Any]) -> set[int]:
        return set(range(report["first_seed"], report["first_seed"] + report["episodes"]))

    if shared := set().union(*map(seeds, frontier)) & seeds(headline):
        raise ValueError(f"frontier and headline share {len(shared)} episode seeds: what chose must not report")


def _measurement(cell: dict[str, Any]) -> Measurement:
    return Measurement(**{field.name: cell[field.name] for field in fields(Measurement)})


def format_card(policy: Policy) -> str:
    """A policy's card, for people."""
    spec, origin = policy.spec, policy.spec.provenance
    lines = [
        f"{spec.name}: {spec.obs_dim} observations -> {spec.action_dim} actions at {spec.control_hz:g} Hz",
        f"  trained on {origin.environment}, {origin.updates:,} updates, seed {origin.seed}",
        f"  actor {spec.actor_hidden}, {spec.ensemble_size} critics {spec.critic_hidden}, {spec.q_agg} of the ensemble",
        f"  default budget N={spec.default_budget.num_candidates}, M={spec.default_budget.num_steps}",
    ]
    if spec.headline:
        cell = spec.headline
        lines.append(
            f"  success {cell.success:.1%} [{cell.low:.1%}, {cell.high:.1%}] over {cell.episodes} episodes "
            f"at N={cell.num_candidates}, M={cell.num_steps}"
        )
    return "\n".join([*lines, f"  version {policy.version}"])


def main() -> None:
    try:
        config = tyro.cli(ExportConfig)
        print(f"{config.out}\n{format_card(export(config))}")
    except (CheckpointError, ValueError, OSError) as error:
        raise SystemExit(f"sorl-export: {error}") from None
