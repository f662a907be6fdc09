"""Generated data: OGBench's layout, determinism for any number of processes, resumption and statistics."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import ogbench
import pytest

from training.data.dataset import load_dataset
from training.data.generate import GenerateConfig, generate, statistics
from training.data.oracles import TASKS, _in_hallway, collect_episode
from training.ranges import flag
from training.tasks import make_task

SMALL = GenerateConfig("pointmaze-medium", episodes=12, val_episodes=3, episode_steps=40, processes=1)
KEYS = {"observations", "actions", "terminals", "qpos", "qvel"}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(replace(SMALL, out_dir=tmp_path_factory.mktemp("data")))


def test_the_layout_is_ogbenchs(generated: Path) -> None:
    with np.load(generated) as file:
        assert set(file.files) == KEYS
        assert {key: str(file[key].dtype) for key in KEYS} == dict.fromkeys(KEYS, "float32") | {"terminals": "bool"}
        assert list(np.flatnonzero(file["terminals"])) == [40 * (i + 1) - 1 for i in range(12)]
    with np.load(generated.with_name(f"{generated.stem}-val.npz")) as file:
        assert len(file["observations"]) == 3 * 40


def test_ogbench_itself_loads_and_relabels_it(generated: Path) -> None:
    name = "pointmaze-medium-navigate-singletask-task1-v0"
    env, train, val = ogbench.make_env_and_datasets(name, dataset_path=str(generated))
    assert train["observations"].shape == (12 * 39, 2)
    assert val["next_observations"].shape == (3 * 39, 2)
    assert set(np.unique(train["rewards"])) <= {-1.0, 0.0}
    env.close()


def test_bytes_depend_on_the_seed_only(generated: Path, tmp_path: Path) -> None:
    again = generate(replace(SMALL, out_dir=tmp_path / "again", processes=2))
    assert again.read_bytes() == generated.read_bytes()
    other = generate(replace(SMALL, out_dir=tmp_path / "other", seed=1))
    assert other.read_bytes() != generated.read_bytes()


def test_an_interrupted_run_continues(
    generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(SMALL, out_dir=tmp_path)

    def disk_full(*arguments: object, **named: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("training.data.generate.np.savez_compressed", disk_full)
    with pytest.raises(OSError, match="no space"):
        generate(config)
    monkeypatch.undo()
    parts = sorted((tmp_path / "pointmaze-medium-navigate-v0.parts").glob("*.npz"))
    assert [part.name for part in parts] == ["train-000000.npz", "train-000010.npz", "val-000012.npz"]
    with pytest.raises(FileExistsError, match="other settings"):
        generate(replace(config, seed=9))
    parts[1].unlink()
    target = generate(config)
    assert target.read_bytes() == generated.read_bytes()
    assert json.loads(target.with_suffix(".json").read_text())["collected_episodes_this_run"] == 2
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".parts"] == []
    capsys.readouterr()
    assert generate(config) == target
    assert "complete already" in capsys.readouterr().out


def test_statistics_agree_with_the_file(generated: Path) -> None:
    report = json.loads(generated.with_suffix(".json").read_text())["splits"]["train"]
    with np.load(generated) as file:
        np.testing.assert_allclose(report["mean_abs_action"], np.abs(file["actions"]).mean(0), atol=1e-3)
    assert (report["episodes"], report["transitions"]) == (12, 12 * 39)


def test_a_goal_is_never_in_a_hallway() -> None:
    maze = np.array([[1, 1, 1], [0, 0, 0], [1, 1, 1]])
    assert _in_hallway(maze, 1, 1)
    assert not _in_hallway(np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]]), 1, 1)


@pytest.mark.parametrize("change", [{"episodes": 0}, {"episode_steps": 1}, {"seed": -1}])
def test_errors_name_settings_out_of_range(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=flag(next(iter(change)))):
        replace(SMALL, **change)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TASKS))
def test_an_episode_depends_on_its_seed_and_number_only(name: str) -> None:
    task = TASKS[name]
    env, fresh = task.make_env(30), task.make_env(30)
    collect_episode(task, env, seed=0, episode=3)
    after_another = collect_episode(task, env, seed=0, episode=4)
    alone = collect_episode(task, fresh, seed=0, episode=4)
    for key, array in after_another.items():
        np.testing.assert_array_equal(array, alone[key])
    assert ("button_states" in alone) == (name in ("scene", "puzzle-3x3", "puzzle-4x4"))
    model = env.unwrapped._model if hasattr(env.unwrapped, "_model") else env.unwrapped.model  # npz.read relies on it
    assert (alone["qpos"].shape[1], alone["qvel"].shape[1]) == (model.nq, model.nv)
    assert not np.array_equal(alone["actions"], collect_episode(task, env, seed=1, episode=4)["actions"])
    env.close()
    fresh.close()


def test_the_command_takes_every_task() -> None:
    assert set(get_args(get_type_hints(GenerateConfig)["task"])) == set(TASKS)


def test_files_are_as_large_as_ogbenchs_unless_said() -> None:
    sizes = {name: [len(part) for part in GenerateConfig(name).splits().values()] for name in TASKS}  # type: ignore[arg-type]
    assert sizes.pop("cube-triple") == [3000, 300]
    assert set(map(tuple, sizes.values())) == {(1000, 100)}
    assert GenerateConfig("cube-triple", episodes=5).splits() == {"train": range(5), "val": range(5, 305)}


@pytest.fixture(scope="module", params=["pointmaze-large", "cube-triple", "puzzle-3x3", "puzzle-4x4"])
def two_episodes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out_dir = tmp_path_factory.mktemp(request.param)
    return generate(GenerateConfig(request.param, out_dir, episodes=2, val_episodes=1, episode_steps=60, processes=1))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 6))
def test_generated_data_is_relabelled_for_every_single_task(two_episodes: Path, number: int) -> None:
    """Rewards are minus the number of what is not at its goal, by the task's own description."""
    task = two_episodes.stem.replace("-v0", f"-singletask-task{number}-v0")
    goal = make_task(task).unwrapped.task_infos[number - 1]
    with np.load(two_episodes) as file:
        arrays = {name: file[name][~file["terminals"]] for name in file.files}
    if "goal_button_states" in goal:
        unmet = arrays["button_states"] != goal["goal_button_states"]
    elif "goal_xyzs" in goal:
        cubes = arrays["qpos"][:, 14:].reshape(-1, 3, 7)[..., :3]
        unmet = np.linalg.norm(cubes - goal["goal_xyzs"], axis=-1) > 0.04
    else:
        unmet = np.ones((2 * 59, 1))  # the data's starts are too far from the goal
    dataset = load_dataset(task, two_episodes)
    np.testing.assert_array_equal(dataset.train.rewards, -unmet.sum(1))
    np.testing.assert_array_equal(dataset.train.masks, unmet.any(1))
    assert dataset.val is not None
    assert len(dataset.val) == 59


@pytest.mark.parametrize(("name", "rows", "columns"), [("puzzle-3x3", 3, 3), ("puzzle-4x4", 4, 4)])
def test_a_press_switches_a_button_and_its_neighbours(name: str, rows: int, columns: int) -> None:
    """Presses are seen in the buttons' positions, and switch what the rules of the game say from the next row on."""
    task = TASKS[name]
    env = task.make_env(120)
    episode = collect_episode(task, env, seed=0, episode=0)
    env.close()
    down = episode["qpos"][:, 14:] <= -0.02
    steps, buttons = np.nonzero(down[1:] & ~down[:-1])
    assert len(steps) >= 3
    assert list(np.flatnonzero(np.diff(episode["button_states"], axis=0).any(1))) == list(steps)
    for step, button in zip(steps, buttons, strict=True):
        switched = np.zeros((rows + 2, columns + 2), bool)  # with a border
        i, j = button // columns + 1, button % columns + 1
        switched[[i, i - 1, i + 1, i, i], [j, j, j, j - 1, j + 1]] = True
        before, after = episode["button_states"][step : step + 2]
        np.testing.assert_array_equal(before != after, switched[1:-1, 1:-1].ravel())
    assert statistics(name, episode)["share_of_steps_that_press_a_button"] == pytest.approx(len(steps) / 119, abs=1e-4)
    opening = episode["observations"][:, 17] / 3
    assert opening[20:].min() > 0.8  # closed, once it has closed


def test_the_gripper_opens_where_there_is_something_to_grasp() -> None:
    """So that the limit of the test above means something."""
    env = TASKS["cube-triple"].make_env(60)
    opening = collect_episode(TASKS["cube-triple"], env, seed=0, episode=0)["observations"][:, 17] / 3
    env.close()
    assert opening[20:].min() < 0.5
