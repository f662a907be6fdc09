"""`sorl-bench train`: time one training update, ours and the released code's, in alternating rounds.

An update's cost depends on k, the steps of its sampled actions, which the released code draws inside its compiled
update. Its driver reports the sequence of k, and our updates repeat it. Times are means over the sequence.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.machine import describe, gemm_peak
from bench.released import Ask, released_code
from bench.table import run_subcommand
from kernels.threads import available_cores, limit_torch_threads
from policy import Budget, PolicySpec
from training.batch import Batch
from training.config import TrainConfig
from training.learner import Learner, RandomStream

Ks = list[tuple[int, int]]
"""(critic_k, q_k) of consecutive updates."""


@dataclass(frozen=True)
class TrainBenchConfig:
    """Time training updates: ours by precision and preset, and the released code's, in alternating rounds."""

    hidden: tuple[int, ...] = (512, 512, 512, 512)
    """Hidden widths of actor and critics."""
    batch_size: int = 256
    """Transitions per update."""
    obs_dim: int = 28
    """Observation dimensions (cube-single's)."""
    action_dim: int = 5
    """Action dimensions (cube-single's)."""
    updates: int = 64
    """Updates per round and contestant."""
    rounds: int = 5
    """Number of rounds; the table shows the median of the rounds' means."""
    threads: int = 0
    """Compute threads of our updates; 0 means all available cores. The released code uses XLA's default."""
    release: Path | None = None
    """Checkout of the released code, to time it too (needs jax, flax, optax, distrax, ml_collections)."""
    release_python: Path = Path(sys.executable)
    """Python interpreter that has the released code's requirements."""
    device: str = "cpu"
    """torch device of our updates."""
    json: Path | None = None
    """Write the report to this file."""


CONTESTANTS: dict[str, dict[str, Any]] = {
    "ours fp32": {"precision": "fp32"},
    "ours bf16": {"precision": "bf16"},
    "ours fp32, torch's operators": {"precision": "fp32", "compute": "torch"},
    "ours bf16, torch's operators": {"precision": "bf16", "compute": "torch"},
    "ours fp32, reference preset": {"precision": "fp32", "preset": "reference"},
    "ours bf16, reference preset": {"precision": "bf16", "preset": "reference"},
}


class Ours:
    """Our learner with random data of the configured sizes."""

    def __init__(self, config: TrainBenchConfig, **settings: Any) -> None:
        train = TrainConfig(
            hidden=config.hidden,
            batch_size=config.batch_size,
            device=config.device,
            threads=config.threads,
            **settings,
        ).resolved()
        spec = PolicySpec(
            name="bench",
            obs_dim=config.obs_dim,
            action_dim=config.action_dim,
            action_low=(-1.0,) * config.action_dim,
            action_high=(1.0,) * config.action_dim,
            actor_hidden=config.hidden,
            critic_hidden=config.hidden,
            ensemble_size=2,
            q_agg="mean",
            critic_conditioning="steps",
            denoise_timesteps=8,
            max_backprop_steps=8,
            control_hz=20.0,
            default_budget=Budget(1, 1),
        )
        self.learner = Learner(spec, train)
        self.random = RandomStream(config.device, seed=0)
        shape = (config.batch_size, config.obs_dim)
        size = config.batch_size
        self.batch = Batch(
            torch.randn(shape, generator=self.random.device, device=config.device),
            torch.rand((size, config.action_dim), generator=self.random.device, device=config.device) * 2 - 1,
            torch.full((size,), -1.0, device=config.device),
            torch.ones(size, device=config.device),
            torch.randn(shape, generator=self.random.device, device=config.device),
        )

    def run(self, ks: Ks) -> float:
        """Mean seconds per update over `ks`."""
        limit_torch_threads(self.learner.compute.torch_threads)
        started = time.perf_counter()
        for critic_k, q_k in ks:
            draws = self.learner.draw(self.random)._replace(critic_k=critic_k, q_k=q_k)
            self.learner.update(self.batch, draws)
        if self.learner.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / len(ks)


def _run_released(release: Ask, updates: int) -> tuple[float, Ks]:
    """Run updates of the released code. Returns the mean seconds per update and the ks that it drew."""
    reply = release(str(updates))
    return reply["seconds"], [(critic_k, q_k) for critic_k, q_k in reply["ks"]]


def update_gflop(config: TrainBenchConfig, ks: Ks) -> float:
    """Mean GFLOP of an update's matrix products over `ks`, by torch's FLOP counter."""
    contestant = Ours(config, compute="torch")
    counted: dict[tuple[int, int], int] = {}
    for pair in set(ks):
        with FlopCounterMode(display=False) as counter:
            contestant.run([pair])
        counted[pair] = counter.get_total_flops()
    return 1e-9 * statistics.mean(counted[pair] for pair in ks)


def run(config: TrainBenchConfig) -> dict[str, Any]:
    """Time all contestants in alternating rounds. Returns the report that `--json` writes."""
    threads = config.threads or available_cores()
    torch.set_float32_matmul_precision("medium")
    ours = {name: Ours(config, **settings) for name, settings in CONTESTANTS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ours}
    all_ks: Ks = []
    sizes = {"batch": config.batch_size, "obs_dim": config.obs_dim, "action_dim": config.action_dim}
    with released_code(config.release, config.release_python, hidden=config.hidden, **sizes) as release:
        ks = [(1 << (i % 4), 1 << (i // 4 % 4)) for i in range(config.updates)]
        if release:
            seconds["released code (jit, fp32)"] = []
            _run_released(release, config.updates)  # compiles
        for contestant in ours.values():
            contestant.run(ks[:4])
        for _ in range(config.rounds):
            if release:
                time_of_round, ks = _run_released(release, config.updates)
                seconds["released code (jit, fp32)"].append(time_of_round)
            all_ks += ks
            for name, contestant in ours.items():
                seconds[name].append(contestant.run(ks))
    peaks: dict[Literal["fp32", "bf16"], float] = {
        "fp32": gemm_peak(torch.float32, threads),
        "bf16": gemm_peak(torch.bfloat16, threads),
    }
    rows = {name: {"seconds": times, "median_ms": 1e3 * statistics.median(times)} for name, times in seconds.items()}
    return {
        "machine": describe(),
        "threads": threads,
        "hidden": list(config.hidden),
        "batch_size": config.batch_size,
        "gflop_per_update": update_gflop(config, all_ks),
        "gemm_peak_gflops": peaks,
        "mean_ks": [statistics.mean(k[side] for k in all_ks) for side in range(2)],
        "updates_per_round": config.updates,
        "contestants": rows,
    }


def format_table(report: dict[str, Any]) -> str:
    rows, work = report["contestants"], report["gflop_per_update"]
    base = rows.get("released code (jit, fp32)")
    lines = [
        f"{report['machine']}; {report['threads']} threads; hidden {report['hidden']}, batch {report['batch_size']}",
        f"{work:.1f} GFLOP an update; GEMM peak "
        + ", ".join(f"{name} {value:.0f} GFLOP/s" for name, value in report["gemm_peak_gflops"].items()),
        "",
        f"{'':<32} {'ms/update':>10} {'updates/s':>10} {'GFLOP/s':>8} {'of peak':>8} {'vs release':>10}",
    ]
    for name, row in rows.items():
        milliseconds = row["median_ms"]
        peak = report["gemm_peak_gflops"]["bf16" if "bf16" in name else "fp32"]
        rate = work / milliseconds * 1e3
        ratio = f"{base['median_ms'] / milliseconds:9.2f}x" if base else ""
        lines.append(
            f"{name:<32} {milliseconds:>10.1f} {1e3 / milliseconds:>10.1f} {rate:>8.0f} {rate / peak:>8.0%} {ratio:>10}"
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """See `TrainBenchConfig`."""
    return run_subcommand("train", TrainBenchConfig, arguments, run, lambda report: print(format_table(report)))
