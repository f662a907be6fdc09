"""Candidates of all TD targets of a data set, drawn once by an actor that does not change, and kept in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from training.files import atomic_path

NAME = "next_actions"
ROWS = 4096
"""Transitions sampled at a time."""


class NextActionsError(ValueError):
    """The file holds other candidates than this run's."""


def load_or_draw(path: Path, origin: Mapping[str, str], count: int, sample: Callable[[Tensor], Tensor]) -> Tensor:
    """The candidates of `count` transitions, (count, n, chunk_dim), from the file, or from `sample` if there is none.

    Args:
        path: the file, safetensors.
        origin: what determines them, which the file says too.
        sample: maps numbers of transitions, (B,), to their candidates, (B, n, chunk_dim).

    Raises:
        NextActionsError: the file is not of this format, or of another origin.
    """
    if path.exists():
        return _load(path, origin, count)
    parts = []
    with tqdm(total=count, unit="transition", desc=str(path)) as bar:
        for rows in torch.split(torch.arange(count), ROWS):
            parts.append(sample(rows))
            bar.update(len(rows))
    found = torch.cat(parts).contiguous()
    with atomic_path(path) as temporary:
        save_file({NAME: found}, temporary, dict(origin))
    return found


def _load(path: Path, origin: Mapping[str, str], count: int) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            found: Tensor = file.get_tensor(NAME)
            theirs = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise NextActionsError(f"{path}: not a file of next actions: {error}") from None
    differing = [
        f"{name} ({theirs.get(name)} there, {ours} here)" for name, ours in origin.items() if theirs.get(name) != ours
    ]
    if differing:
        raise NextActionsError(f"{path}: holds next actions of other {', '.join(differing)}")
    if len(found) != count:
        raise NextActionsError(f"{path}: expected {count} transitions, found {len(found)}")
    return found
