"""`sorl-generate`: offline data from OGBench's scripted oracles, in the layout of OGBench's own files.

Episodes are collected in parallel processes, ten to a part file. Parts are written atomically, so an interrupted run
continues where it stopped. When all parts exist, they are merged into NAME.npz and NAME-val.npz, and NAME.json gets
their statistics and sha256. `ogbench.make_env_and_datasets(..., dataset_path=NAME.npz)` loads the result.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
import tyro
from tqdm import tqdm

from kernels.commands import command
from training.arguments import parse_arguments
from training.data.oracles import TASKS, Arrays, collect_episode
from training.files import atomic_path, require_folder, sha256_of, write_json
from training.ranges import MOST, MOST_WORKERS, Range, require_ranges
from training.signals import sigint_blocked

EPISODES_PER_PART = 10


@dataclass(frozen=True)
class GenerateConfig:
    """Generate an offline dataset with a scripted oracle (resumable: run the same command again)."""

    task: Annotated[
        Literal[
            "pointmaze-medium",
            "pointmaze-large",
            "cube-single",
            "cube-double",
            "cube-triple",
            "scene",
            "puzzle-3x3",
            "puzzle-4x4",
        ],
        tyro.conf.Positional,
    ]
    """The environment."""
    out_dir: Path = Path("data")
    """Folder of NAME.npz, NAME-val.npz and NAME.json."""
    episodes: Annotated[int, Range(1, MOST)] | None = None
    """Training episodes. Default: as many as OGBench's own data has, 3000 for cube-triple and 1000 for the others."""
    val_episodes: Annotated[int, Range(1, MOST)] | None = None
    """Validation episodes, in a separate file. Default: as many as OGBench's own data has, 300 or 100."""
    episode_steps: Annotated[int, Range(2, MOST)] = 1001
    """Rows per episode, one more than its transitions."""
    seed: Annotated[int, Range(0, 2**64 - 1)] = 0
    """Seed of the dataset. An episode depends on it and on the episode's number only."""
    processes: Annotated[int, Range(0, MOST_WORKERS)] = 0
    """Worker processes; 0 means one per available core."""

    def __post_init__(self) -> None:
        require_ranges(self)

    def splits(self) -> dict[str, range]:
        """The numbers of the episodes in each file, "train" and "val"."""
        usual = TASKS[self.task].episodes
        train, val = self.episodes or usual, self.val_episodes or usual // 10
        return {"train": range(train), "val": range(train, train + val)}

    def identity(self) -> dict[str, Any]:
        """The settings that determine the data's bytes."""
        splits = self.splits()
        return {
            "task": self.task,
            "episodes": len(splits["train"]),
            "val_episodes": len(splits["val"]),
            "episode_steps": self.episode_steps,
            "seed": self.seed,
        }


_worker_env: gymnasium.Env | None = None
_worker_config: GenerateConfig | None = None


def _start_worker(config: GenerateConfig) -> None:
    global _worker_env, _worker_config
    _worker_config = config
    _worker_env = TASKS[config.task].make_env(config.episode_steps)


def _collect_part(path: Path, episodes: range) -> int:
    assert _worker_env is not None
    assert _worker_config is not None
    collected = [
        collect_episode(TASKS[_worker_config.task], _worker_env, _worker_config.seed, episode) for episode in episodes
    ]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **_concatenate(collected))
    return len(episodes)


def _concatenate(parts: list[Arrays]) -> Arrays:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _plan_parts(config: GenerateConfig, directory: Path) -> dict[Path, range]:
    """Part file -> its episodes. No part mixes training and validation episodes."""
    parts = {}
    for split, episodes in config.splits().items():
        for first in episodes[::EPISODES_PER_PART]:
            parts[directory / f"{split}-{first:06d}.npz"] = range(first, min(first + EPISODES_PER_PART, episodes.stop))
    return parts


def generate(config: GenerateConfig) -> Path:
    """Collect the missing episodes, merge all, write statistics. Returns the path of the training file.

    Raises:
        OutputError: the folder cannot be written.
        FileExistsError: the parts on disk were made with other settings.
    """
    require_folder("--out-dir", config.out_dir)
    name = TASKS[config.task].dataset_name
    target = config.out_dir / f"{name}.npz"
    report_path = target.with_suffix(".json")
    if report_path.exists() and json.loads(report_path.read_text())["config"] == config.identity():
        print(f"{target} is complete already")
        return target

    directory = config.out_dir / f"{name}.parts"
    directory.mkdir(parents=True, exist_ok=True)
    _require_same_settings(directory, config)
    parts = _plan_parts(config, directory)
    missing = {path: episodes for path, episodes in parts.items() if not path.exists()}
    started = time.perf_counter()
    _collect_missing(config, missing, total=sum(len(episodes) for episodes in parts.values()))
    seconds = time.perf_counter() - started
    collected = sum(len(episodes) for episodes in missing.values())

    report: dict[str, Any] = {
        "config": config.identity(),
        "collected_episodes_this_run": collected,
        "collection_seconds_this_run": round(seconds, 1),
        "splits": {},
    }
    for split, path in (("train", target), ("val", target.with_name(f"{name}-val.npz"))):
        arrays = _concatenate([dict(np.load(part)) for part in parts if part.name.startswith(split)])
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        report["splits"][split] = {"file": path.name, "sha256": sha256_of(path), **statistics(config.task, arrays)}
    write_json(report_path, report)
    shutil.rmtree(directory)
    print(f"{target}: {report['splits']['train']['transitions']:,} transitions; statistics in {report_path.name}")
    return target


def _require_same_settings(directory: Path, config: GenerateConfig) -> None:
    """Leave the settings beside the parts, or compare them with those that are there."""
    path = directory / "config.json"
    if not path.exists():
        write_json(path, config.identity())
    elif json.loads(path.read_text()) != config.identity():
        raise FileExistsError(
            f"{directory} holds parts made with other settings ({path.read_text().strip()}); "
            "continue with those, choose another --out-dir, or delete it"
        )


def _collect_missing(config: GenerateConfig, missing: dict[Path, range], total: int) -> None:
    done = total - sum(len(episodes) for episodes in missing.values())
    processes = config.processes or len(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    with (
        tqdm(total=total, initial=done, unit="episode", desc=config.task, smoothing=0.05) as bar,
        ProcessPoolExecutor(processes, context, _start_worker, (config,)) as pool,
    ):
        try:
            with sigint_blocked():
                futures = [pool.submit(_collect_part, path, episodes) for path, episodes in missing.items()]
            for future in as_completed(futures):
                bar.update(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def statistics(task: str, arrays: Arrays) -> dict[str, Any]:
    """Statistics that datasets of one protocol should share, whatever their seeds."""
    moving = ~arrays["terminals"][:-1]
    result: dict[str, Any] = {
        "episodes": int(arrays["terminals"].sum()),
        "rows": len(arrays["terminals"]),
        "transitions": int(len(arrays["terminals"]) - arrays["terminals"].sum()),
        "mean_abs_action": _rounded(np.abs(arrays["actions"]).mean(0)),
        "share_of_saturated_actions": round(float((np.abs(arrays["actions"]) >= 1).mean()), 4),
        "observation_mean": _rounded(arrays["observations"].mean(0, dtype=np.float64)),
        "observation_std": _rounded(arrays["observations"].std(0, dtype=np.float64)),
    }
    for cube in range(TASKS[task].cubes):
        xyz = arrays["qpos"][:, 14 + 7 * cube : 17 + 7 * cube]
        moved = np.linalg.norm(np.diff(xyz, axis=0), axis=1)[moving] > 1e-3
        result[f"share_of_steps_cube_{cube}_lifted"] = round(float((xyz[:, 2] > 0.04).mean()), 4)
        result[f"share_of_steps_cube_{cube}_moved"] = round(float(moved.mean()), 4)
    if "button_states" in arrays:
        pressed = (np.diff(arrays["button_states"], axis=0) != 0).any(axis=1)[moving]
        result["share_of_steps_that_press_a_button"] = round(float(pressed.mean()), 4)
    return result


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 4) for value in values]


@command("sorl-generate", OSError, ValueError, interrupted="interrupted: run the same command again to continue")
def main() -> None:
    """`sorl-generate`."""
    generate(parse_arguments(GenerateConfig))
