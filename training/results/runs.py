"""`find_runs`: the policies in run folders and files, with the facts of their training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policy import Provenance, load_policy
from training.evaluation import discount_of, policy_facts
from training.logs import training_seconds
from training.results.errors import ResultsError


@dataclass(frozen=True)
class Checkpoint:
    """One policy file."""

    path: Path
    task: str
    facts: dict[str, Any]
    """`policy_facts`, task, discount, and training_seconds: wall time of its training, None if unknown."""

    @property
    def version(self) -> str:
        return str(self.facts["policy_sha256"])

    @property
    def updates(self) -> int:
        return int(self.facts["updates"])


@dataclass(frozen=True)
class Run:
    """The checkpoints of one training, in order of updates. A single file is a run of one checkpoint."""

    label: str
    checkpoints: tuple[Checkpoint, ...]

    @property
    def task(self) -> str:
        return self.last.task

    @property
    def last(self) -> Checkpoint:
        return self.checkpoints[-1]


def find_runs(paths: tuple[Path, ...]) -> list[Run]:
    """One run per path, each with its own label. A path is a run folder or a .safetensors file.

    Raises:
        CheckpointError: a policy is damaged.
        ResultsError: a folder has no policy or policies of several tasks, or a policy does not name its task.
    """
    runs = [_find_run(path) for path in paths]
    labels = [run.label for run in runs]
    return [
        run if labels.count(run.label) == 1 else Run(f"{run.label} {run.last.version[:8]}", run.checkpoints)
        for run in runs
    ]


def _find_run(path: Path) -> Run:
    if not path.is_dir():
        checkpoint = _checkpoint(path)
        return Run(path.stem, (checkpoint,))
    last = path / "policy.safetensors"
    if not last.exists():
        raise ResultsError(
            f"{path} has no policy.safetensors: it is not a run folder, or its training has not saved yet"
        )
    # The last policy may also have been kept under its number: equal updates are one checkpoint.
    found = {point.updates: point for point in map(_checkpoint, [*sorted(path.glob("policy-*.safetensors")), last])}
    checkpoints = tuple(found[updates] for updates in sorted(found))
    if len({checkpoint.task for checkpoint in checkpoints}) != 1:
        raise ResultsError(f"{path} holds policies of several tasks")
    name = path.resolve().name.removeprefix(f"{checkpoints[-1].task}-")
    return Run(f"seed {name}" if name.isdigit() else name, checkpoints)


def _checkpoint(path: Path) -> Checkpoint:
    policy = load_policy(path)
    task = policy.spec.provenance.environment
    if not task:
        raise ResultsError(f"{path} does not name its training environment")
    facts = {
        **policy_facts(policy),
        "task": task,
        "discount": discount_of(policy.spec, task),
        "training_seconds": _training_seconds(policy.spec.provenance, path.parent / "metrics.csv"),
    }
    return Checkpoint(path, task, facts)


def _training_seconds(provenance: Provenance, metrics: Path) -> float | None:
    """Wall time of all `provenance.updates`. Of a run that started from a policy the log has only its own part."""
    return None if provenance.config.get("start_from") else training_seconds(metrics, provenance.updates)
