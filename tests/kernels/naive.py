"""A naive sample-and-score to test backends against: float64 NumPy, one candidate at a time.

It follows docs/algorithm.md and shares no code with `kernels` except the noise, which test_philox.py tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from kernels.philox import standard_normals
from policy import Policy

SCHEDULES = {
    1: [0],
    2: [1, 1],
    3: [1, 2, 2],
    4: [2, 2, 2, 2],
    5: [2, 2, 2, 3, 3],
    6: [2, 2, 3, 3, 3, 3],
    7: [2, 3, 3, 3, 3, 3, 3],
    8: [3] * 8,
}


@dataclass
class NaiveResult:
    candidates: np.ndarray  # (N, chunk_dim)
    members: np.ndarray  # (N, E)
    q: np.ndarray  # (N,)

    @property
    def index(self) -> int:
        return int(np.argmax(self.q))


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def actor(weights: dict[str, np.ndarray], s: np.ndarray, x: np.ndarray, t: float, d: float) -> np.ndarray:
    h = np.concatenate([s, x, [t, d]])
    last = max(int(name.split(".")[2]) for name in weights if name.startswith("actor.layers"))
    for layer in range(last + 1):
        h = weights[f"actor.layers.{layer}.weight"] @ h + weights[f"actor.layers.{layer}.bias"]
        h = gelu(h) if layer < last else h
    return h


def critic(weights: dict[str, np.ndarray], member: int, inputs: np.ndarray) -> float:
    h = inputs
    last = max(int(name.split(".")[2]) for name in weights if name.startswith("critic.layers"))
    for layer in range(last + 1):
        h = weights[f"critic.layers.{layer}.weight"][member] @ h + weights[f"critic.layers.{layer}.bias"][member]
        if layer == last:
            return float(h[0])
        h = gelu(h)
        if f"critic.norms.{layer}.weight" in weights:
            h = (h - h.mean()) / np.sqrt(h.var() + 1e-6)
            h = h * weights[f"critic.norms.{layer}.weight"][member] + weights[f"critic.norms.{layer}.bias"][member]
    raise AssertionError("unreachable")


def sample_and_score(
    policy: Policy, observation: np.ndarray, n: int, m: int, seed: int, temperature: float = 1.0, first: int = 0
) -> NaiveResult:
    spec = policy.spec
    weights = {name: tensor.double().numpy() for name, tensor in policy.state_dict().items()}
    s = observation.astype(np.float64)
    if spec.normaliser == "standardise":
        s = (s - weights["observation_mean"]) / weights["observation_std"]
    k = max(p for p in (1, 2, 4, 8) if p <= min(m, spec.max_backprop_steps))
    signed = seed - 2**64 if seed >= 2**63 else seed
    candidates, members = [], []
    for candidate in range(first, first + n):
        z = standard_normals(torch.tensor([signed]), torch.tensor([candidate]), spec.chunk_dim)[0].double().numpy()
        x, t = np.float32(temperature).astype(np.float64) * z, 0.0
        for d in SCHEDULES[m]:
            x = x + actor(weights, s, x, t, d) / 2**d
            t += 1 / 2**d
        x = np.clip(x, -1, 1)
        inputs = np.concatenate([s, x, [k]] if spec.critic_conditioning == "steps" else [s, x])
        candidates.append(x)
        members.append([critic(weights, member, inputs) for member in range(spec.ensemble_size)])
    values = np.array(members)
    q = values.mean(1) if spec.q_agg == "mean" else values.min(1)
    return NaiveResult(np.array(candidates), values, q)
