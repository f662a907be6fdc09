"""A prefix as part of the networks' input: where its numbers go, and that old files are as they were."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kernels.commitment import network_input
from policy import PolicySpec, in_prefix, load_policy, save_policy, with_prefix
from policy.errors import SpecError
from tests.policies import random_policy

SPEC = random_policy(obs_dim=4, action_dim=3, action_horizon=5, prefix_max=2).spec


def test_what_the_networks_take() -> None:
    observation = torch.arange(8.0).reshape(2, 4)
    actions = torch.arange(30.0).reshape(2, 5, 3) / 30
    inputs = with_prefix(SPEC, observation, actions, torch.tensor([1, 2])).tolist()
    zero, one = [0.0] * 3, [1.0]
    assert inputs[0] == observation[0].tolist() + actions[0, 0].tolist() + zero + one + [0.0]
    assert inputs[1] == observation[1].tolist() + actions[1, 0].tolist() + actions[1, 1].tolist() + one + one
    assert SPEC.input_dim == len(inputs[0]) == 4 + 2 * 3 + 2


def test_which_numbers_of_a_chunk_are_not_the_policys() -> None:
    inputs = with_prefix(SPEC, torch.zeros(3, 4), torch.zeros(3, 5, 3), torch.tensor([0, 1, 2]))
    assert in_prefix(SPEC, inputs).tolist() == [[False] * 15, [True] * 3 + [False] * 12, [True] * 6 + [False] * 9]


@pytest.mark.parametrize(("given", "counted"), [(0, 0), (1, 1), (2, 2), (4, 2)])
def test_numpys_form(given: int, counted: int) -> None:
    """Of more committed actions than the networks take, the first count."""
    rng = np.random.default_rng(0)
    observation = rng.normal(size=(2, 4)).astype(np.float32)
    committed = rng.uniform(-1, 1, (2, given, 3)).astype(np.float32)
    found = network_input(SPEC, observation, committed if given else None)
    padded = np.zeros((2, 2, 3), np.float32)
    padded[:, :counted] = committed[:, :counted]
    expected = with_prefix(SPEC, torch.tensor(observation), torch.tensor(padded), torch.tensor([counted] * 2)).numpy()
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32


def test_without_prefixes_the_observation_is_the_input() -> None:
    observation = np.zeros((2, 11), np.float32)
    assert network_input(random_policy().spec, observation) is observation


def test_a_file_keeps_it(tmp_path: Path) -> None:
    policy = random_policy(obs_dim=4, action_horizon=5, prefix_max=2, coherence=0.25)
    save_policy(policy, tmp_path / "a.safetensors")
    loaded = load_policy(tmp_path / "a.safetensors")
    assert (loaded.spec.prefix_max, loaded.spec.coherence) == (2, 0.25)
    assert loaded.observation_mean.shape == (12,)
    assert {"prefix_max", "coherence"}.isdisjoint(json.loads(random_policy().spec.to_json()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prefix_max": 1}, r"prefix_max must be 0 to 0 \(action_horizon - 1\)"),
        ({"prefix_max": 5, "action_horizon": 5}, "prefix_max must be 0 to 4"),
        ({"prefix_max": -1}, "prefix_max must be 0 to 0"),
        ({"coherence": 1.5}, r"coherence must be in \[0, 1\]"),
        ({"coherence": float("nan")}, "coherence must be in"),
    ],
)
def test_what_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        PolicySpec(name="x", obs_dim=1, action_dim=1, action_low=(-1.0,), action_high=(1.0,), **changes)  # type: ignore[arg-type]


def test_units_there_and_back() -> None:
    spec = random_policy(action_low=(-2.0, 0.0, 1.0), action_high=(1.0, 4.0, 1.5), action_horizon=2).spec
    chunk = np.random.default_rng(0).uniform(-1, 1, (7, 6)).astype(np.float32)
    back = spec.action_from_environment(spec.action_to_environment(chunk))
    np.testing.assert_allclose(back.reshape(7, 6), chunk, atol=1e-6)
    assert spec.action_from_environment(np.array([9.0, -9.0, 1.25], np.float32)).tolist() == [1.0, -1.0, 0.0]
