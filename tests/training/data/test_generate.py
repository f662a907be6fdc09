"""Generated data: OGBench's layout, determinism for any number of processes, resumption and statistics."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import ogbench
import pytest

from training.data.generate import GenerateConfig, generate
from training.data.oracles import TASKS, _in_hallway, collect_episode
from training.ranges import flag

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


@pytest.mark.parametrize("name", sorted(TASKS))
def test_an_episode_depends_on_its_seed_and_number_only(name: str) -> None:
    task = TASKS[name]
    env, fresh = task.make_env(30), task.make_env(30)
    collect_episode(task, env, seed=0, episode=3)
    after_another = collect_episode(task, env, seed=0, episode=4)
    alone = collect_episode(task, fresh, seed=0, episode=4)
    for key, array in after_another.items():
        np.testing.assert_array_equal(array, alone[key])
    assert ("button_states" in alone) == (name == "scene")
    model = env.unwrapped._model if hasattr(env.unwrapped, "_model") else env.unwrapped.model  # npz.read relies on it
    assert (alone["qpos"].shape[1], alone["qvel"].shape[1]) == (model.nq, model.nv)
    assert not np.array_equal(alone["actions"], collect_episode(task, env, seed=1, episode=4)["actions"])
    env.close()
    fresh.close()
