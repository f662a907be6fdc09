"""The policy versions of a drill: their files, their correct actions, and when each was served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bench.drill.plan import MODEL, DrillRequest
from kernels.backend import Backend, BackendChoice, Precision, SampleBatch
from kernels.choice import create_backend
from policy import Budget, Policy, PolicySpec, load_policy, save_policy

BATCH = 256
SPEC = PolicySpec(
    name=MODEL,
    obs_dim=28,
    action_dim=5,
    action_low=(-1.0,) * 5,
    action_high=(1.0,) * 5,
    actor_hidden=(256, 256, 256),
    critic_hidden=(256, 256, 256),
    default_budget=Budget(num_candidates=8, num_steps=4),
)


class Version:
    """One policy file, and a backend that computes its correct actions.

    Attributes:
        sha: the file's sha256, `model_version` in replies.
        content: the file's bytes.
        obs_dim: the policy's observation dimension.
        engine: the expected `engine` in replies.
    """

    def __init__(self, path: Path, backend: BackendChoice, precision: Precision) -> None:
        policy = load_policy(path)
        self._backend: Backend = create_backend(policy, backend, "cpu", precision, 1)
        self._spec = policy.spec
        self.sha = policy.version
        self.content = path.read_bytes()
        self.obs_dim = policy.spec.obs_dim
        self.engine = self._backend.engine

    def actions(self, requests: Sequence[DrillRequest], budgets: Sequence[tuple[int, int]]) -> list[np.ndarray | None]:
        """The action of each request, (action_dim,) float32 in environment units, or None if it is not finite.

        `budgets` are N and M as granted, one pair a request.
        """
        found: list[np.ndarray | None] = []
        for start in range(0, len(requests), BATCH):
            part = requests[start : start + BATCH]
            observation = np.stack([request.observation(self.obs_dim) for request in part])
            n, m = zip(*budgets[start : start + BATCH], strict=True)
            result = self._backend.sample_and_score(
                SampleBatch.of(observation, n, m, [request.number for request in part])
            )
            actions = self._spec.action_to_environment(result.action)
            found += [None if bad else action for action, bad in zip(actions, result.nonfinite, strict=True)]
        return found


def make_versions(folder: Path, backend: BackendChoice, precision: Precision) -> tuple[Version, Version]:
    """Make two policies with the same name and different weights.

    Raises:
        BackendUnavailable: `backend` can't run here.
    """
    made = []
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            policy = Policy(replace(SPEC)).eval().requires_grad_(False)
        path = folder / f"version-{seed}.safetensors"
        save_policy(policy, path)
        made.append(Version(path, backend, precision))
    return made[0], made[1]


def broken_files(good: bytes, folder: Path) -> list[bytes]:
    """Contents that a server must refuse: half a file, and a file with a NaN weight."""
    path = folder / "broken.safetensors"
    path.write_bytes(good)
    policy = load_policy(path)
    policy.actor.get_parameter("layers.0.weight").data[0, 0] = float("nan")
    save_policy(policy, path)
    return [good[: len(good) // 2], path.read_bytes()]


@dataclass
class _Span:
    sha: str
    first: float
    last: float = float("inf")


class Timeline:
    """When each version may have been served. Times are the event loop's, in seconds."""

    def __init__(self, sha: str) -> None:
        self._spans = [_Span(sha, float("-inf"))]

    def begins(self, sha: str, when: float) -> None:
        """A reload to version `sha` was requested at `when`: later replies may be of it or of the version before."""
        self._spans.append(_Span(sha, when))

    def replaced(self, when: float) -> None:
        """The reload was done at `when`: requests sent later may get only the newest version."""
        self._spans[-2].last = when

    def allows(self, sha: str, sent: float, received: float) -> bool:
        """Whether a request in flight from `sent` to `received` may have got its reply from version `sha`."""
        return any(span.sha == sha and span.first <= received and sent <= span.last for span in self._spans)
