"""`sorl-bench train`: time of one update, ours and the released code's in alternating rounds.

The released code draws its k (steps of the sampled actions) inside its compiled update; its driver reports them, and
our side repeats the same sequence. Every figure is a mean over that sequence, because the cost depends on k.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from bench.machine import describe, gemm_peak
from bench.table import write_json
from kernels.threads import available_cores, limit_torch_threads
from policy import Budget, PolicySpec
from training.config import TrainConfig
from training.learner import Learner
from training.losses import Batch

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
    """Rounds; the table shows the median of the rounds' means."""
    threads: int = 0
    """Compute threads of ours; 0 means all available cores. The released code takes what XLA takes."""
    release: Path | None = None
    """Checkout of the released code, to be timed too (needs jax, flax, optax, distrax, ml_collections)."""
    release_python: Path = Path(sys.executable)
    """Python that has the released code's requirements."""
    device: str = "cpu"
    """torch device of ours."""
    json: Path | None = None
    """Write everything here."""


CONTESTANTS: dict[str, dict[str, Any]] = {
    "ours fp32": {"precision": "fp32"},
    "ours bf16": {"precision": "bf16"},
    "ours fp32, reference preset": {"precision": "fp32", "preset": "reference"},
    "ours bf16, reference preset": {"precision": "bf16", "preset": "reference"},
}


class Ours:
    """A learner on random data of the right shape."""

    def __init__(self, config: TrainBenchConfig, **settings: Any) -> None:
        train = TrainConfig(
            hidden=config.hidden, batch_size=config.batch_size, device=config.device, **settings
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
        self.generator = torch.Generator(config.device).manual_seed(0)
        shape = (config.batch_size, config.obs_dim)
        size = config.batch_size
        self.batch = Batch(
            torch.randn(shape, generator=self.generator, device=config.device),
            torch.rand((size, config.action_dim), generator=self.generator, device=config.device) * 2 - 1,
            torch.full((size,), -1.0, device=config.device),
            torch.ones(size, device=config.device),
            torch.randn(shape, generator=self.generator, device=config.device),
        )

    def run(self, ks: Ks) -> float:
        """Mean seconds per update over `ks`."""
        started = time.perf_counter()
        for critic_k, q_k in ks:
            draws = self.learner.draw(self.generator)._replace(critic_k=critic_k, q_k=q_k)
            self.learner.update(self.batch, draws)
        if self.learner.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / len(ks)


class Released:
    """The released code in a process of its own; it says which k it drew."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def run(self, updates: int) -> tuple[float, Ks]:
        """(mean seconds per update, its ks)."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{updates}\n")
        self.process.stdin.flush()
        reply = json.loads(self.process.stdout.readline() or "{}")
        if not reply:
            raise ChildProcessError("the released code's process ended; its message is above")
        return reply["seconds"], [(critic_k, q_k) for critic_k, q_k in reply["ks"]]


@contextmanager
def released(config: TrainBenchConfig) -> Iterator[Released | None]:
    if config.release is None:
        yield None
        return
    sizes = {
        "hidden": list(config.hidden),
        "batch": config.batch_size,
        "obs_dim": config.obs_dim,
        "action_dim": config.action_dim,
    }
    driver = Path(__file__).with_name("released_driver.py")
    command = [str(config.release_python), str(driver), str(config.release), json.dumps(sizes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Released(process)
        finally:
            process.terminate()


def update_gflop(config: TrainBenchConfig, ks: Ks) -> float:
    """Matrix-product work of one update of the paper's form, mean over `ks`, in GFLOP.

    In forward passes of a batch (a backward through weights and inputs costs two): actor critic_k (next action) + 3
    flow + 2 + 3 consistency + 3 q_k; critics 1 target + 3 + 2 (Q loss: no weight gradients).
    """
    critic_k, q_k = (statistics.mean(k[side] for k in ks) for side in range(2))
    inner = sum(a * b for a, b in pairwise(config.hidden))
    actor = inner + config.hidden[0] * (config.obs_dim + config.action_dim + 2) + config.hidden[-1] * config.action_dim
    critic = inner + config.hidden[0] * (config.obs_dim + config.action_dim + 1) + config.hidden[-1]
    products = actor * (critic_k + 8 + 3 * q_k) + 2 * critic * 6
    return 2e-9 * config.batch_size * products


def run(config: TrainBenchConfig) -> dict[str, Any]:
    """Time everything in alternating rounds. Returns what `--json` writes."""
    threads = config.threads or available_cores()
    limit_torch_threads(threads)
    torch.set_float32_matmul_precision("medium")
    ours = {name: Ours(config, **settings) for name, settings in CONTESTANTS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ours}
    all_ks: Ks = []
    with released(config) as release:
        ks = [(1 << (i % 4), 1 << (i // 4 % 4)) for i in range(config.updates)]
        if release:
            seconds["released code (jit, fp32)"] = []
            release.run(config.updates)  # compiles
        for contestant in ours.values():
            contestant.run(ks[:4])
        for _ in range(config.rounds):
            if release:
                time_of_round, ks = release.run(config.updates)
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
        f"{'':<30} {'ms/update':>10} {'updates/s':>10} {'GFLOP/s':>8} {'of peak':>8} {'vs release':>10}",
    ]
    for name, row in rows.items():
        milliseconds = row["median_ms"]
        peak = report["gemm_peak_gflops"]["bf16" if "bf16" in name else "fp32"]
        rate = work / milliseconds * 1e3
        ratio = f"{base['median_ms'] / milliseconds:9.2f}x" if base else ""
        lines.append(
            f"{name:<30} {milliseconds:>10.1f} {1e3 / milliseconds:>10.1f} {rate:>8.0f} {rate / peak:>8.0%} {ratio:>10}"
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """See `TrainBenchConfig`."""
    try:
        config = tyro.cli(TrainBenchConfig, prog="sorl-bench train", args=arguments)
    except ValueError as error:
        raise SystemExit(f"sorl-bench train: {error}") from None
    report = run(config)
    print(format_table(report))
    write_json(config.json, report)
    return 0
