"""The policies of a domain: which task each is for, and whether all were made by one recipe."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from policy import load_policy
from training.config import OPERATIONAL, TrainConfig
from training.domains.scores import TASKS, DomainError

NAME = re.compile(r"(?P<domain>.+)-[a-z]+-singletask-task(?P<number>[1-5])-v0")
"""An OGBench single task: domain, kind of data, number of the task."""


@dataclass(frozen=True)
class Contestant:
    """One policy and the task that it was trained for."""

    path: Path
    version: str
    """Its sha256."""
    domain: str
    task: str
    """OGBench's name of the single task."""
    number: int
    """Of the task, 1 to 5."""
    seed: int | None
    dataset: str | None
    """sha256 of the training data."""
    start: str | None
    """sha256 of the policy that its training started from."""
    recipe: dict[str, Any]
    """Every setting of its training but task, seed and those that change no update; and its temperature."""


def find_contestants(paths: tuple[Path, ...]) -> list[Contestant]:
    """The policies in run folders (their `policy.safetensors`) and files, ordered by task and training seed.

    Raises:
        CheckpointError: a policy is damaged.
        DomainError: they are not of one domain, lack one of its tasks, differ in their settings or their data, or are
            given twice.
    """
    found = sorted(map(_contestant, paths), key=lambda one: (one.number, one.seed or 0))
    first = found[0]
    for one in found:
        if one.domain != first.domain:
            raise DomainError(f"{one.path} is of {one.domain}, {first.path} of {first.domain}: one domain at a time")
        differing = [name for name, value in one.recipe.items() if value != first.recipe[name]]
        if differing:
            raise DomainError(
                f"{one.path} and {first.path} differ in {', '.join(differing)}: a domain's score is of one recipe"
            )
        if one.dataset != first.dataset:
            raise DomainError(f"{one.path} and {first.path} were trained on different data")
    for one, other in pairwise(found):
        if (one.number, one.seed) == (other.number, other.seed):
            raise DomainError(f"{one.path} and {other.path} are of the same task and training seed")
    missing = sorted(set(TASKS) - {one.number for one in found})
    if missing:
        tasks = ", ".join(map(str, missing))
        raise DomainError(f"no policy of {first.domain} task {tasks}: a domain's score is the mean over all five")
    return found


def _contestant(path: Path) -> Contestant:
    file = path / "policy.safetensors" if path.is_dir() else path
    policy = load_policy(file)
    origin = policy.spec.provenance
    name = NAME.fullmatch(origin.environment or "")
    if name is None:
        raise DomainError(f"{file} is not of a single task of OGBench: its environment is {origin.environment!r}")
    defaults = TrainConfig().as_json()
    recipe = {
        setting: origin.config.get(setting, default)
        for setting, default in defaults.items()
        if setting not in OPERATIONAL | {"task", "seed", "start_from", "control_hz", "observation_keys"}
    }
    recipe["temperature"] = policy.spec.temperature
    return Contestant(
        file,
        policy.version,
        name["domain"],
        name[0],
        int(name["number"]),
        origin.seed,
        origin.dataset_sha256,
        (origin.config.get("start_from") or {}).get("version"),
        recipe,
    )
