"""Datasets: generated, read from disk, and given to the learner as batches.

`load_dataset` reads a file in any format of `formats/` (OGBench's npz, D4RL's HDF5, Minari) and puts its transitions on
a device; `ActionBounds` converts actions to [-1, 1]. `generate` is `sorl-generate`, and `oracles` scripts its episodes.

Nothing here imports torch before data goes to a device: `sorl-generate --help` takes 0.5 s instead of 2, and its worker
processes do without torch's memory.
"""

from training.data.action_bounds import ActionBounds
from training.data.dataset import (
    ACTION_LIMIT,
    Dataset,
    DatasetError,
    StatedUnits,
    Transitions,
    load_dataset,
    require_files,
)

__all__ = [
    "ACTION_LIMIT",
    "ActionBounds",
    "Dataset",
    "DatasetError",
    "StatedUnits",
    "Transitions",
    "load_dataset",
    "require_files",
]
