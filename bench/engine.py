"""`sorl-bench engine`: time sample-and-score by our engines and by peers, at several (R, N, M), in alternating rounds.

Peers get the most favourable conditions: noise drawn in advance, and a graph of static shapes for each point. Our
engines draw their noise.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.cpu_peers import Sampler, fused_onednn, onnxruntime_session, openvino_model, torch_compiled, torch_eager
from bench.machine import describe, gemm_peak
from bench.released import Ask, released_code
from bench.table import run_subcommand
from kernels.backend import SampleBatch
from kernels.cpu import CpuBackend, supported_isas
from kernels.reference import ReferenceBackend
from kernels.threads import available_cores, limit_torch_threads
from policy import Budget, Policy, PolicySpec
from policy.flops import flops_of

Point = tuple[int, int, int]
POINTS: list[Point] = [(1, 1, 1), (1, 32, 4), (1, 256, 8), (16, 32, 4), (64, 1, 1)]
RAGGED_N, RAGGED_M = [1, 32, 8, 64, 4, 16, 1, 128], [1, 4, 8, 3, 2, 5, 8, 1]
SIZES = {"cube-single": (28, 5), "humanoidmaze": (69, 21)}

Call = Callable[[], Any]


@dataclass(frozen=True)
class EngineBenchConfig:
    """Time one batch of sample-and-score: our engines and peers, in alternating rounds."""

    hidden: tuple[int, ...] = (512, 512, 512, 512)
    """Hidden widths of actor and critics."""
    size: str = "cube-single"
    """Observation and action dimensions: cube-single (28, 5) or humanoidmaze (69, 21)."""
    action_horizon: int = 1
    """Actions in a chunk; above 1, every contestant is timed with such chunks too, beside single actions."""
    rounds: int = 7
    """Number of rounds; the table shows the median of the rounds' medians."""
    seconds: float = 0.15
    """Seconds per contestant and round."""
    threads: int = 0
    """Compute threads of every contestant; 0 means all available cores."""
    peers: tuple[str, ...] = ()
    """Only contestants whose names contain one of these; by default, all that are installed."""
    release: Path | None = None
    """Checkout of the released code, to time its sampler too (R = 1 only; needs jax, flax, optax, distrax)."""
    release_python: Path = Path(sys.executable)
    """Python interpreter that has the released code's requirements."""
    json: Path | None = None
    """Write the report to this file."""

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"size must be one of {', '.join(SIZES)}, got {self.size!r}")
        if self.action_horizon < 1:
            raise ValueError(f"action_horizon must be at least 1, got {self.action_horizon}")


def make_policy(config: EngineBenchConfig, action_horizon: int = 1) -> Policy:
    """A policy of the configured sizes with random weights; the time does not depend on them."""
    obs_dim, action_dim = SIZES[config.size]
    torch.manual_seed(0)
    return (
        Policy(
            PolicySpec(
                name="bench",
                obs_dim=obs_dim,
                action_dim=action_dim,
                action_low=(-1.0,) * action_dim,
                action_high=(1.0,) * action_dim,
                actor_hidden=config.hidden,
                critic_hidden=config.hidden,
                ensemble_size=2,
                q_agg="mean",
                critic_conditioning="steps",
                denoise_timesteps=8,
                max_backprop_steps=8,
                control_hz=20.0,
                default_budget=Budget(32, 4),
                action_horizon=action_horizon,
            )
        )
        .eval()
        .requires_grad_(False)
    )


def gflop(policy: Policy, num_candidates: list[int], num_steps: list[int]) -> float:
    """GFLOP of a batch's matrix products: per candidate M actor rows and a row of each critic, per request one
    observation."""
    cost = flops_of(policy.spec)
    rows = sum(n * (m * cost.actor_row + cost.critic_row) for n, m in zip(num_candidates, num_steps, strict=True))
    return 1e-9 * (rows + len(num_candidates) * (cost.actor_observation + cost.critic_observation))


@dataclass
class Contestant:
    """An engine or runtime to be timed.

    Attributes:
        prepare: (requests, N, M) -> the call to time, or None if it can't do that.
        ragged: the same for a batch of mixed budgets; None if it can't do those.
        action_horizon: of the policy that it samples.
        medians: median seconds of each round, by point.
    """

    name: str
    precision: str
    prepare: Callable[[int, int, int], Call | None]
    ragged: Callable[[SampleBatch], Call] | None = None
    action_horizon: int = 1
    medians: dict[str, list[float]] = field(default_factory=dict)


def contestants(config: EngineBenchConfig, policy: Policy, threads: int) -> list[Contestant]:
    """The installed contestants, ours first."""
    spec = policy.spec
    horizon = spec.action_horizon
    suffix = "" if horizon == 1 else f", h = {horizon}"

    def ours(name: str, backend: Any, precision: str) -> Contestant:
        def prepare(requests: int, n: int, m: int) -> Call:
            batch = SampleBatch.of(_observations(requests, spec.obs_dim), n, m, range(requests))
            return lambda: backend.sample_and_score(batch)

        ragged: Callable[[SampleBatch], Call] = lambda batch: lambda: backend.sample_and_score(batch)  # noqa: E731
        return Contestant(name + suffix, precision, prepare, ragged, horizon)

    def peer(name: str, precision: str, build: Callable[..., Callable[..., Any]]) -> Contestant:
        def prepare(requests: int, n: int, m: int) -> Call:
            noise = torch.randn(requests * n, spec.chunk_dim)
            observation = torch.from_numpy(_observations(requests, spec.obs_dim))
            call = build(Sampler(policy, requests, n, m), observation, noise, precision, threads)
            return lambda: call(observation, noise)

        return Contestant(name + suffix, precision, prepare, action_horizon=horizon)

    found = [ours(f"ours, cpu/bf16/{supported_isas()[0]}", CpuBackend(policy, "bf16", threads), "bf16")]
    found.append(ours(f"ours, cpu/fp32/{supported_isas()[0]}", CpuBackend(policy, "fp32", threads), "fp32"))
    found.append(ours("ours, reference fp32", ReferenceBackend(policy), "fp32"))
    for precision in ("bf16", "fp32"):
        found.append(peer(f"torch eager {precision}", precision, torch_eager))
        found.append(peer(f"torch + oneDNN fused linear {precision}", precision, fused_onednn))
        found.append(peer(f"torch.compile {precision}", precision, torch_compiled))
        if importlib.util.find_spec("openvino"):
            found.append(peer(f"OpenVINO {precision}", precision, openvino_model))
    if importlib.util.find_spec("onnxruntime"):
        found.append(peer("ONNX Runtime fp32", "fp32", onnxruntime_session))
    return [c for c in found if not config.peers or any(wanted in c.name for wanted in config.peers)]


def run(config: EngineBenchConfig) -> dict[str, Any]:
    """Time all contestants. Returns the report that `--json` writes."""
    threads = config.threads or available_cores()
    limit_torch_threads(threads)
    torch.set_float32_matmul_precision("medium")
    policies = {horizon: make_policy(config, horizon) for horizon in sorted({1, config.action_horizon})}
    everyone = [contestant for policy in policies.values() for contestant in contestants(config, policy, threads)]
    work: dict[int, dict[str, float]] = {horizon: {} for horizon in policies}
    obs_dim, action_dim = SIZES[config.size]
    sizes = {"batch": 256, "obs_dim": obs_dim, "action_dim": action_dim}
    started = released_code(config.release, config.release_python, hidden=config.hidden, **sizes)
    with torch.inference_mode(), started as release:
        for requests, n, m in POINTS:
            point = f"({requests},{n},{m})"
            for horizon, policy in policies.items():
                work[horizon][point] = gflop(policy, [n] * requests, [m] * requests)
            calls = {c.name: call for c in everyone if (call := c.prepare(requests, n, m)) is not None}
            if release and requests == 1:
                calls[RELEASED] = partial(_released_seconds, release, n, m)
            _rounds(config, point, calls, everyone)
        batch = SampleBatch.of(_observations(len(RAGGED_N), obs_dim), RAGGED_N, RAGGED_M, range(8))
        for horizon, policy in policies.items():
            work[horizon]["ragged"] = gflop(policy, RAGGED_N, RAGGED_M)
        _rounds(config, "ragged", {c.name: c.ragged(batch) for c in everyone if c.ragged}, everyone)
    peaks = {
        "fp32": gemm_peak(torch.float32, threads),
        "bf16": gemm_peak(torch.bfloat16, threads),
    }
    return {
        "machine": describe(),
        "threads": threads,
        "hidden": list(config.hidden),
        "size": config.size,
        "gemm_peak_gflops": peaks,
        "gflop": work[1],
        **({"chunk_gflop": work[config.action_horizon]} if config.action_horizon > 1 else {}),
        "contestants": [
            {
                "name": c.name,
                "precision": c.precision,
                "action_horizon": c.action_horizon,
                "ms": {point: 1e3 * statistics.median(medians) for point, medians in c.medians.items()},
            }
            for c in everyone
        ],
    }


def _released_seconds(release: Ask, n: int, m: int) -> float:
    return float(release(f"sample {n} {m}")["seconds"])


RELEASED = "released JAX code, jit fp32"


def _rounds(config: EngineBenchConfig, point: str, calls: dict[str, Call], everyone: list[Contestant]) -> None:
    known = {c.name: c for c in everyone}
    if RELEASED in calls and RELEASED not in known:
        known[RELEASED] = Contestant(RELEASED, "fp32", lambda *_: None)
        everyone.append(known[RELEASED])
    for call in calls.values():
        call()
        call()
    for _ in range(config.rounds):
        for name, call in calls.items():
            times: list[float] = []
            until = time.perf_counter() + config.seconds
            while not times or time.perf_counter() < until:
                started = time.perf_counter()
                seconds = call()
                took = time.perf_counter() - started
                times.append(seconds if isinstance(seconds, float) else took)
            known[name].medians.setdefault(point, []).append(statistics.median(times))


def _observations(requests: int, obs_dim: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((requests, obs_dim)).astype(np.float32)


def _work_line(name: str, gflop_of: dict[str, float]) -> str:
    return f"{name:<46}" + "".join(f"{value:>13.3f}" for value in gflop_of.values())


def format_table(report: dict[str, Any]) -> str:
    points = list(report["gflop"])
    lines = [
        f"{report['machine']}; {report['threads']} threads; {report['size']}, hidden {report['hidden']}; median ms",
        "GEMM peak: " + ", ".join(f"{name} {value:.0f} GFLOP/s" for name, value in report["gemm_peak_gflops"].items()),
        "",
        f"{'(R,N,M)':<46}" + "".join(f"{point:>13}" for point in points),
        _work_line("work, GFLOP", report["gflop"]),
    ]
    if "chunk_gflop" in report:
        lines.append(_work_line("work of chunks, GFLOP", report["chunk_gflop"]))
    for row in report["contestants"]:
        cells = (f"{row['ms'][point]:>13.3f}" if point in row["ms"] else f"{'-':>13}" for point in points)
        lines.append(f"{row['name']:<46}" + "".join(cells))
    lines.append("")
    for row in report["contestants"]:
        if not row["name"].startswith("ours, cpu"):
            continue
        peak = report["gemm_peak_gflops"][row["precision"]]
        work = report["gflop" if row["action_horizon"] == 1 else "chunk_gflop"]
        shares = (work[point] / row["ms"][point] * 1e3 / peak for point in points)
        lines.append(f"{row['name'] + ', of peak':<46}" + "".join(f"{share:>13.0%}" for share in shares))
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """See `EngineBenchConfig`."""
    return run_subcommand("engine", EngineBenchConfig, arguments, run, lambda report: print(format_table(report)))
