"""`PolicySpec`: its JSON form and its checks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from policy import Budget, Measurement, ObservationKey, PolicySpec, Provenance
from policy.errors import SpecError
from tests.policies import random_policy

SHIPPED = sorted((Path(__file__).parents[2] / "deploy" / "policies").glob("*.safetensors"))
OF_BEFORE = [path for path in SHIPPED if not path.stem.endswith("-h5")]


def keys(**sizes: int) -> list[dict[str, Any]]:
    return [{"name": name, "size": size} for name, size in sizes.items()]


def full_spec() -> PolicySpec:
    return replace(
        random_policy().spec,
        frontier=(Measurement(8, 4, 0.5, 0.3, 0.7, 50), Measurement(32, 1, 1.0, 0.9, 1.0, 50)),
        headline=Measurement(32, 4, 0.9, 0.8, 0.95, 200),
        provenance=Provenance("env", "abc", 10, 3, "rev", {"lr": 1e-4, "hidden": [1, 2]}, "note"),
        default_budget=Budget(16, 2),
        observation_keys=(ObservationKey("wrist", 4), ObservationKey("arm", 7)),
        action_horizon=5,
        prefix_max=3,
        coherence=0.25,
        temperature=0.5,
    )


def test_json_round_trip() -> None:
    assert PolicySpec.from_json(full_spec().to_json()) == full_spec()


def test_observation_keys_keep_their_order() -> None:
    spec = PolicySpec.from_json(full_spec().to_json())
    assert [(key.name, key.size) for key in spec.observation_keys] == [("wrist", 4), ("arm", 7)]


@pytest.mark.parametrize("path", OF_BEFORE, ids=lambda path: path.stem)
def test_a_file_from_before_these_fields_is_read_and_written_as_it_was(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        text = file.metadata()["sorl_policy"]
    spec = PolicySpec.from_json(text)
    assert (spec.observation_keys, spec.action_horizon) == ((), 1)
    assert spec.to_json() == text


def test_a_chunk_is_scaled_action_by_action() -> None:
    limits = {"action_low": (-2.0, -1.0, 0.0), "action_high": (1.0, 1.0, 4.0), "action_dim": 3}
    one, five = (replace(random_policy().spec, action_horizon=h, **limits) for h in (1, 5))
    assert (one.chunk_dim, one.action_shape) == (3, (3,))
    assert (five.chunk_dim, five.action_shape) == (15, (5, 3))
    chunks = np.random.default_rng(0).uniform(-1, 1, (2, 7, 15)).astype(np.float32)
    scaled = five.action_to_environment(chunks)
    assert scaled.shape == (2, 7, 5, 3)
    assert np.array_equal(scaled, one.action_to_environment(chunks.reshape(2, 7, 5, 3)))
    assert np.allclose(scaled, five.action_to_environment(torch.from_numpy(chunks)).numpy(), atol=1e-6)


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"colour": "red"}, "unknown key 'colour' in spec"),
    ({"default_budget": {"num_candidates": 1, "num_steps": 1, "x": 1}}, "unknown key 'x' in spec.default_budget"),
    ({"provenance": {"who": 1}}, "unknown key 'who' in spec.provenance"),
    ({"frontier": [{"num_candidates": 1}]}, r"spec.frontier\[0\].num_steps is missing"),
    ({"frontier": {}}, "spec.frontier must be a list"),
    ({"obs_dim": "11"}, "spec.obs_dim must be of type int"),
    ({"obs_dim": True}, "spec.obs_dim must be of type int"),
    ({"action_horizon": 0}, "action_horizon must be at least 1, found 0"),
    ({"obs_dim": 0}, "obs_dim must be at least 1"),
    ({"name": ""}, "name must be a printable"),
    ({"action_low": [0.0]}, "action_low must have 3 finite numbers"),
    ({"action_high": [-1.0, 1.0, 1.0]}, "action_low must be below action_high"),
    ({"actor_hidden": []}, "actor_hidden must be positive widths"),
    ({"q_agg": "median"}, "spec.q_agg must be one of 'mean', 'min'"),
    ({"critic_conditioning": 1}, "spec.critic_conditioning must be one of"),
    ({"denoise_timesteps": 6}, "denoise_timesteps must be a power of two"),
    ({"max_backprop_steps": 16}, "max_backprop_steps must be at most"),
    ({"control_hz": 0}, "control_hz must be positive"),
    ({"temperature": -0.1}, r"temperature must be in \[0, 2\], found -0.1"),
    ({"temperature": 2.1}, r"temperature must be in \[0, 2\]"),
    ({"temperature": True}, "spec.temperature must be of type float"),
    ({"format_version": 2, "a_key_of_the_future": 1}, "format_version is 2, and this release reads up to 1"),
    ({"format_version": 0}, "format_version must be 1"),
    ({"default_budget": {"num_candidates": 4, "num_steps": 9}}, "default_budget.num_steps must be 1 to 8"),
    ({"headline": {**vars(Measurement(1, 1, 0.9, 0.95, 1.0, 5))}}, "headline must have 0 <= low <= success"),
    ({"headline": 3}, "spec.headline must be an object"),
    ({"observation_keys": {"arm": 11}}, "spec.observation_keys must be a list"),
    ({"observation_keys": [{"name": "arm"}]}, r"spec.observation_keys\[0\].size is missing"),
    ({"observation_keys": keys(arm=7, tool=3)}, r"observation_keys must add up to 11 \(obs_dim\), found 10"),
    ({"observation_keys": keys(arm=11, tool=0)}, r"observation_keys\[1\].size must be at least 1"),
    ({"observation_keys": keys(arm=12, tool=-1)}, r"observation_keys\[1\].size must be at least 1"),
    (
        {"observation_keys": keys(arm=5) + keys(arm=6)},
        r"observation_keys\[1\].name must not be there twice, found 'arm'",
    ),
    ({"observation_keys": [{"name": "", "size": 11}]}, r"observation_keys\[0\].name must be a printable"),
    ({"observation_keys": [{"name": "a\nb", "size": 11}]}, r"observation_keys\[0\].name must be a printable"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS)
def test_faults_are_named(change: dict[str, Any], message: str) -> None:
    value = json.loads(full_spec().to_json()) | change
    with pytest.raises(SpecError, match=message):
        PolicySpec.from_json(json.dumps(value))


@pytest.mark.parametrize("text", ["", "[1]", "{", '"x"', "[" * 10_000])
def test_text_that_is_not_a_json_object_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        PolicySpec.from_json(text)


def test_a_missing_key_is_named() -> None:
    value = json.loads(full_spec().to_json())
    del value["obs_dim"]
    with pytest.raises(SpecError, match=r"spec\.obs_dim is missing"):
        PolicySpec.from_json(json.dumps(value))
