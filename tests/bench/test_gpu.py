"""`sorl-bench gpu`: the parts that need no GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bench import gpu
from bench.latency import act_latency
from bench.peers import torch_sampler
from kernels.backend import SampleBatch
from kernels.gpu.configuration import TritonOptions
from kernels.philox import standard_normals
from kernels.reference import ReferenceBackend
from policy import load_policy
from service.settings import load_settings
from tests.policies import random_policy

MODEL = Path(__file__).parent.parent.parent / "deploy" / "policies" / "pointmaze-medium.safetensors"

without_device = pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")


@without_device
def test_without_a_device_the_error_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("triton", reason="needs the extra gpu")
    assert gpu.main(["--model", str(MODEL)]) == 2
    assert "has no CUDA device" in capsys.readouterr().err


def test_a_missing_policy_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--model", "none.safetensors"]) == 2
    assert "none.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_the_peer_computes_the_same_actions(steps: int) -> None:
    policy = random_policy(normaliser="standardise", max_backprop_steps=4, q_agg="min")
    observation = np.random.default_rng(0).standard_normal((5, 11)).astype(np.float32)
    expected = ReferenceBackend(policy).sample_and_score(SampleBatch.of(observation, 6, steps, range(5)))
    seeds, candidates = torch.arange(5).repeat_interleave(6), torch.arange(6).repeat(5)
    noise = standard_normals(seeds, candidates, policy.spec.action_dim)
    action, value = torch_sampler(policy, 6, steps)(torch.from_numpy(observation), noise)
    np.testing.assert_allclose(action.numpy(), expected.action, atol=1e-5)
    np.testing.assert_allclose(value.numpy(), expected.q, atol=1e-5)


@pytest.mark.parametrize("mode", ["reference", *gpu.MODES])
def test_the_server_takes_every_mode_s_flags(mode: str) -> None:
    settings = load_settings(["--model", str(MODEL), *gpu.server_flags(mode)])
    assert settings.device == "cuda"
    if mode == "reference":
        assert settings.backend == "reference"
    else:
        assert settings.backend == "triton"
        found = TritonOptions(settings.precision, settings.triton_replay, settings.triton_split)
        assert found == gpu.MODES[mode]


@pytest.mark.slow
def test_latency_is_that_of_a_real_server() -> None:
    observation = [float(value) for value in load_policy(MODEL).observation_mean]
    found = act_latency(MODEL, observation, 2, 3, 20, "--backend", "reference", "--device", "cpu", "--threads", "1")
    assert 0 < found["compute p50 ms"] < found["request p50 ms"] <= found["request p99 ms"]


@pytest.mark.slow
def test_the_error_of_a_server_that_can_not_start_has_its_log() -> None:
    with pytest.raises(RuntimeError, match=r"none\.safetensors"):
        act_latency(Path("none.safetensors"), [0.0], 1, 1, 1)
