from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.data.dataset import Dataset, load_dataset

TASK = "pointmaze-medium-navigate-singletask-task1-v0"


def point_maze_rows(episodes: int = 20, steps: int = 26, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows in OGBench's layout: a point that moves as its actions say, near the goal of task 1."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (episodes, steps, 2)).astype(np.float32)
    start = rng.uniform(16, 22, (episodes, 1, 2))
    positions = (start + np.cumsum(0.2 * actions, axis=1)).astype(np.float32).reshape(-1, 2)
    terminals = np.zeros((episodes, steps), bool)
    terminals[:, -1] = True
    return {
        "observations": positions,
        "actions": actions.reshape(-1, 2),
        "terminals": terminals.ravel(),
        "qpos": positions,
        "qvel": np.zeros_like(positions),
    }


def write(path: Path, rows: dict[str, np.ndarray]) -> Path:
    """Write `rows` as training and as validation file."""
    for target in (path, path.with_name(f"{path.stem}-val.npz")):
        with target.open("wb") as file:
            np.savez(file, allow_pickle=False, **rows)
    return path


@pytest.fixture(scope="session")
def dataset_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "maze.npz", point_maze_rows())


@pytest.fixture(scope="session")
def dataset(dataset_path: Path) -> Dataset:
    return load_dataset(TASK, dataset_path)
