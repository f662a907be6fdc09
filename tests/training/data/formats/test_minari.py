"""Datasets made with minari's own API: their transitions, their units, and the errors of faulty ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from minari.data_collector import EpisodeBuffer

from kernels.backend import SampleBatch
from kernels.reference import ReferenceBackend
from policy import load_policy
from training.config import TrainConfig
from training.data.dataset import Dataset, DatasetError, StatedUnits, load_dataset
from training.files import sha256_of_folder
from training.train import train

NAME = "tests/robot-v0"
# minari warns when it creates a dataset without an environment.
pytestmark = pytest.mark.filterwarnings("ignore:(.eval_env. is set to None|env_spec is None):UserWarning")
VECTOR = Box(-np.inf, np.inf, (3,), np.float32)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """minari's local store, empty."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    return tmp_path / "store"


def episodes(scale: float = 1.0) -> list[EpisodeBuffer]:
    """Five episodes of 4, 5, 6, 7 and 8 steps; odd ones are terminated. Observation = 100 * episode + step."""
    rng = np.random.default_rng(0)
    buffers = []
    for number in range(5):
        steps = 4 + number
        ends = np.arange(steps) == steps - 1
        buffers.append(
            EpisodeBuffer(
                id=number,
                observations=list((100 * number + np.arange(steps + 1, dtype=np.float32))[:, None] + np.zeros(3, "f4")),
                actions=list((scale * rng.uniform(-1, 1, (steps, 2))).astype(np.float32)),
                rewards=list(rng.normal(size=steps)),
                terminations=list(ends & (number % 2 == 1)),
                truncations=list(ends & (number % 2 == 0)),
            )
        )
    return buffers


def create(buffers: list[EpisodeBuffer], action_space: gymnasium.Space, observation_space: Any = VECTOR) -> Any:
    return minari.create_dataset_from_buffers(
        NAME,
        buffers,
        action_space=action_space,
        observation_space=observation_space,
        algorithm_name="random",
        author="a test",
        author_email="test@example.org",
        code_permalink="none",
        description="a tiny dataset",
    )


def box(limit: float) -> Box:
    return Box(-limit, limit, (2,), np.float32)


def load(**stated: Any) -> Dataset:
    return load_dataset("my-robot", Path(f"minari:{NAME}"), stated=StatedUnits(**stated))


def test_every_step_is_a_transition(store: Path) -> None:
    buffers = episodes()
    create(buffers, box(1))
    dataset = load()
    train = dataset.train
    assert train.observations[:, 0].tolist() == [100 * e + step for e in range(5) for step in range(4 + e)]
    assert (train.next_observations - train.observations).unique().tolist() == [1.0]
    assert train.masks.tolist() == [float(not (e % 2 and step == 3 + e)) for e in range(5) for step in range(4 + e)]
    np.testing.assert_allclose(train.rewards, np.concatenate([buffer.rewards for buffer in buffers]), rtol=1e-6)
    np.testing.assert_allclose(train.actions, np.concatenate([buffer.actions for buffer in buffers]), atol=2e-5)
    assert (dataset.control_hz, dataset.val) == (20.0, None)
    assert dataset.sha256 == sha256_of_folder(store / NAME / "data")
    assert load(control_hz=30.0).control_hz == 30.0


def test_windows_stay_inside_episodes() -> None:
    buffers = episodes()
    create(buffers, box(1))
    train = load_dataset("my-robot", Path(f"minari:{NAME}"), action_horizon=5, discount=0.5).train
    starts = [(episode, step) for episode in range(1, 5) for step in range(episode)]  # 4 + e steps, e windows
    assert train.observations[:, 0].tolist() == [100 * episode + step for episode, step in starts]
    assert (train.next_observations - train.observations).unique().tolist() == [5.0]
    assert train.masks.tolist() == [float(not (e % 2 and step == e - 1)) for e, step in starts]
    sums = [sum(0.5**i * buffers[e].rewards[step + i] for i in range(5)) for e, step in starts]
    np.testing.assert_allclose(train.rewards, sums, rtol=1e-6)


def test_actions_are_rescaled_by_their_space() -> None:
    create(episodes(scale=3.0), box(4))
    dataset = load()
    expected = np.concatenate([buffer.actions for buffer in episodes(scale=3.0)]) / 4
    np.testing.assert_allclose(dataset.train.actions, expected, atol=1e-6)
    assert dataset.action_bounds.high == (4.0, 4.0)
    assert load(action_low=(-6.0,), action_high=(6.0,)).action_bounds.high == (6.0, 6.0)


def test_without_bounds_actions_must_be_in_the_unit_box() -> None:
    create(episodes(), box(np.inf))
    assert load().action_bounds.high == (1.0, 1.0)
    minari.delete_dataset(NAME)
    create(episodes(scale=3.0), box(np.inf))
    with pytest.raises(DatasetError, match=r"minari:tests/robot-v0: episode 0: 'actions' row \d leaves .*pass"):
        load()


def test_spaces_that_are_not_vectors_are_errors() -> None:
    buffers = episodes()
    for buffer in buffers:
        buffer.actions[:] = [np.int64(1)] * len(buffer.actions)  # type: ignore[index, call-overload]
    create(buffers, Discrete(3))
    with pytest.raises(DatasetError, match=r"its action space is Discrete\(3\), expected a Box with one axis"):
        load()
    minari.delete_dataset(NAME)
    goals = [EpisodeBuffer(**{**vars(buffer), "observations": {"goal": buffer.observations}}) for buffer in episodes()]
    create(goals, box(1), Dict({"goal": VECTOR}))
    with pytest.raises(DatasetError, match=r"its observation space is Dict"):
        load()


def test_errors_name_episode_array_and_row(store: Path) -> None:
    create(episodes(), box(1))
    path = store / NAME / "data" / "main_data.hdf5"
    with h5py.File(path, "a") as file:
        file["episode_2/observations"][3, 1] = np.nan
    with pytest.raises(DatasetError, match=r"robot-v0: episode 2: 'observations' row 3 is NaN"):
        load()
    with h5py.File(path, "a") as file:
        file["episode_2/observations"][3, 1] = 0
        file["episode_1/rewards"].resize((4,))
    with pytest.raises(DatasetError, match=r"episode 1: 'rewards' has 4 rows, and 'actions' has 5"):
        load()
    with h5py.File(path, "a") as file:
        file["episode_1/rewards"].resize((5,))
        file["episode_1/observations"].resize((5, 3))
    with pytest.raises(DatasetError, match="episode 1: 'observations' has 5 rows, expected 6"):
        load()
    with h5py.File(path, "a") as file:
        del file["episode_1/actions"]
    with pytest.raises(DatasetError, match="damaged, or not a Minari dataset"):
        load()
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DatasetError, match="damaged, or not a Minari dataset"):
        load()


def test_missing_datasets_and_libraries_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match="robot-v0: not on this machine: `minari download tests/robot-v0`"):
        load()
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(DatasetError, match=r"needs minari and h5py: pip install 'sorl-serve\[data\]'"):
        load()


def test_a_policy_is_trained_and_acts_in_the_robots_units(store: Path, tmp_path: Path) -> None:
    create(episodes(scale=3.0), box(4))
    config = TrainConfig(
        task="my-robot",
        dataset=Path(f"minari:{NAME}"),
        run_dir=tmp_path / "run",
        updates=3,
        hidden=(16, 16),
        batch_size=16,
        threads=1,
    )
    policy = load_policy(train(config))
    assert policy.spec.action_high == (4.0, 4.0)
    assert policy.spec.provenance.dataset_sha256 == sha256_of_folder(store / NAME / "data")
    result = ReferenceBackend(policy).sample_and_score(SampleBatch.of(np.zeros((4, 3), np.float32), 8, 4, 0))
    action = policy.spec.action_to_environment(result.action)
    assert action.shape == (4, 2)
    assert (np.abs(action) <= 4).all()
