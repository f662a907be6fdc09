"""`sorl-bench precision`: errors of fp32 and bf16 in a policy's candidates and choices, against float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from bench.machine import describe
from bench.table import print_table, run_subcommand
from kernels.backend import Float32, SampleBatch
from kernels.cpu import CpuBackend
from kernels.reference import ReferenceBackend
from policy import Policy, load_policy

BUDGETS = [(2, 5), (32, 4), (256, 8)]


@dataclass(frozen=True)
class PrecisionConfig:
    """Compare the native engine's precisions with float64 on observations from the policy's own episodes."""

    policy: tyro.conf.Positional[Path] = Path("deploy/policies/cube-single.safetensors")
    """A .safetensors policy whose provenance names its environment."""
    observations: int = 256
    """Number of observations, from the first 64 steps of consecutive episodes."""
    first_seed: int = 70_000
    """Seed of the first episode."""
    json: Path | None = None
    """Write the report to this file."""


def run(config: PrecisionConfig) -> dict[str, Any]:
    """Compare the precisions. Returns the report that `--json` writes."""
    policy = load_policy(config.policy)
    observation = np.stack([row for row, _ in zip(_visited(policy, config), range(config.observations), strict=False)])
    rows = []
    for n, m in BUDGETS:
        batch = SampleBatch.of(observation, n, m, range(len(observation)), return_candidates=True)
        exact = ReferenceBackend(load_policy(config.policy), dtype=torch.float64).sample_and_score(batch)
        assert exact.candidates is not None
        assert exact.candidate_q is not None
        for precision in ("fp32", "bf16"):
            found = CpuBackend(policy, precision).sample_and_score(batch)
            assert found.candidates is not None
            error = np.concatenate(found.candidates) - np.concatenate(exact.candidates)
            given_up = [q.max() - q[index] for q, index in zip(exact.candidate_q, found.index, strict=True)]
            rows.append(
                {
                    "N": n,
                    "M": m,
                    "precision": precision,
                    "same choice": float(np.mean(found.index == exact.index)),
                    "candidates rms": float(np.sqrt(np.mean(error**2))),
                    "candidates max": float(np.abs(error).max()),
                    "Q given up, mean": float(np.mean(given_up)),
                    "max": float(np.max(given_up)),
                    "spread of Q": float(np.mean([q.std() for q in exact.candidate_q])),
                }
            )
    return {"machine": describe(), "policy": config.policy.name, "observations": len(observation), "rows": rows}


def _visited(policy: Policy, config: PrecisionConfig) -> Iterator[Float32]:
    from sorl_client.episodes import make_env, reset

    env, budget = make_env(policy.spec.provenance.environment), policy.spec.default_budget
    backend = CpuBackend(policy, "fp32")
    for episode in range(config.first_seed, config.first_seed + config.observations):
        observation, ended = np.asarray(reset(env, episode), np.float32), False
        for step in range(64):
            if ended:
                break
            yield observation
            batch = SampleBatch.of(
                observation[None], budget.num_candidates, budget.num_steps, step, policy.spec.temperature
            )
            action = policy.spec.action_to_environment(backend.sample_and_score(batch).action)[0]
            following, _, terminated, truncated, _ = env.step(action)
            observation, ended = np.asarray(following, np.float32), terminated or truncated


def print_report(report: dict[str, Any]) -> None:
    print(f"{report['policy']}, {report['observations']} observations; {report['machine']}")
    print_table(report["rows"])


def main(arguments: list[str]) -> int:
    """See `PrecisionConfig`."""
    return run_subcommand("precision", PrecisionConfig, arguments, run, print_report)
