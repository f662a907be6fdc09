"""The CPU benchmarks: peers compute the same actions, FLOP are counted right, and tables have the measurements."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import engine, train
from bench.cpu_peers import Sampler, torch_eager
from bench.engine import EngineBenchConfig
from bench.released import released_code
from bench.train import TrainBenchConfig
from kernels.backend import SampleBatch
from kernels.philox import standard_normals
from kernels.reference import ReferenceBackend

TINY = EngineBenchConfig(hidden=(16, 16), rounds=1, seconds=0.001, threads=1, peers=("ours, cpu", "eager"))


def test_peers_compute_the_references_actions() -> None:
    policy = engine.make_policy(TINY)
    observation = np.random.default_rng(0).standard_normal((3, 28)).astype(np.float32)
    expected = ReferenceBackend(policy).sample_and_score(SampleBatch.of(observation, 6, 3, [5, 6, 7]))
    seeds, candidates = torch.tensor([5, 6, 7]).repeat_interleave(6), torch.arange(6).repeat(3)
    noise = standard_normals(seeds, candidates, 5)
    peer = torch_eager(Sampler(policy, 3, 6, 3), torch.from_numpy(observation), noise, "fp32", 1)
    action, q = peer(torch.from_numpy(observation), noise)
    np.testing.assert_allclose(action, expected.action, atol=1e-5)
    np.testing.assert_allclose(q, expected.q, atol=1e-5)


def test_gflop_is_what_torch_counts() -> None:
    """With one candidate and one step, since torch's network does not reuse the observation's share."""
    policy = engine.make_policy(TINY)
    with FlopCounterMode(display=False) as counter:
        Sampler(policy, 1, 1, 1)(torch.zeros(1, 28), torch.zeros(1, 5))
    assert engine.gflop(policy, [1], [1]) * 1e9 == pytest.approx(counter.get_total_flops())
    assert engine.gflop(policy, [4, 2], [2, 1]) == pytest.approx(
        engine.gflop(policy, [4], [2]) + engine.gflop(policy, [2], [1])
    )


def test_the_gflop_of_an_update_are_the_papers() -> None:
    """In forward passes of a batch, a backward through weights and inputs costing two: actor k (next action), 3 flow,
    2 + 3 consistency, 3 k'; each critic 1 target, 3, 2 (Q loss). First layers cost less: nobody needs their inputs'
    gradients, and the observation's share is computed once."""
    width, batch = 256, 24
    config = TrainBenchConfig(hidden=(width, width, width), batch_size=batch)
    for k, q_k in ((1, 1), (4, 8)):
        hidden = 2 * width * width * (k + 8 + 3 * q_k + 2 * 6)
        first = width * 35 * (k + 8 + 3 * q_k + 2 * 6)
        counted = train.update_gflop(config, [(k, q_k)]) * 1e9 / (2 * batch)
        assert hidden < counted < hidden + first


def test_every_contestant_is_timed_at_every_point() -> None:
    report = engine.run(TINY)
    assert [row["name"].split("/")[0] for row in report["contestants"]] == ["ours, cpu"] * 2 + [
        "torch eager bf16",
        "torch eager fp32",
    ]
    points = {"(1,1,1)", "(1,32,4)", "(1,256,8)", "(16,32,4)", "(64,1,1)"}
    for row in report["contestants"]:
        assert set(row["ms"]) - {"ragged"} == points
        assert min(row["ms"].values()) > 0
    table = engine.format_table(report)
    assert f"{report['contestants'][0]['ms']['(16,32,4)']:.3f}" in table


def test_chunks_are_timed_beside_single_actions() -> None:
    report = engine.run(replace(TINY, peers=("ours, cpu/fp32", "eager fp32"), action_horizon=5))
    names = [row["name"].split("/")[0] for row in report["contestants"]]
    assert names == ["ours, cpu", "torch eager fp32", "ours, cpu", "torch eager fp32, h = 5"]
    assert [row["action_horizon"] for row in report["contestants"]] == [1, 1, 5, 5]
    chunks = engine.make_policy(TINY, 5)
    with FlopCounterMode(display=False) as counter:
        Sampler(chunks, 1, 1, 1)(torch.zeros(1, 28), torch.zeros(1, 25))
    assert report["chunk_gflop"]["(1,1,1)"] * 1e9 == pytest.approx(counter.get_total_flops())
    assert report["gflop"] == engine.run(replace(TINY, peers=("none",)))["gflop"]
    lines = engine.format_table(report).splitlines()
    shares = [line for line in lines if ", of peak" in line]
    peak = report["gemm_peak_gflops"]["fp32"]
    row = report["contestants"][2]
    share = report["chunk_gflop"]["(16,32,4)"] / row["ms"]["(16,32,4)"] * 1e3 / peak
    assert f"{share:.0%}" in shares[1]


def test_an_action_horizon_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="action_horizon must be at least 1, got 0"):
        replace(TINY, action_horizon=0)


def test_the_end_of_the_released_codes_process_is_an_error(tmp_path: Path) -> None:
    sizes = {"batch": 1, "obs_dim": 1, "action_dim": 1}
    with released_code(tmp_path, Path(sys.executable), hidden=(8,), **sizes) as ask:
        assert ask is not None
        with pytest.raises((ChildProcessError, BrokenPipeError)):
            ask("1")
