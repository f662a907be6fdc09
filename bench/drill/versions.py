"""The versions of the policy in a drill: their files, what each answers to every request, and when each was served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bench.drill.plan import Ask
from kernels.backend import Backend, BackendChoice, Precision, SampleBatch
from kernels.choice import create_backend
from policy import Budget, Policy, PolicySpec, load_policy, save_policy

BATCH = 256
NAME = "drill"
SPEC = PolicySpec(
    name=NAME,
    obs_dim=28,
    action_dim=5,
    action_low=(-1.0,) * 5,
    action_high=(1.0,) * 5,
    actor_hidden=(256, 256, 256),
    critic_hidden=(256, 256, 256),
    default_budget=Budget(num_candidates=8, num_steps=4),
)


class Version:
    """One policy file and the backend that knows its answers.

    Attributes:
        sha: what replies call model_version.
        content: of the file.
        obs_dim: of its observations.
        engine: what replies must call engine.
    """

    def __init__(self, path: Path, backend: BackendChoice, precision: Precision) -> None:
        policy = load_policy(path)
        self._backend: Backend = create_backend(policy, backend, "cpu", precision, 1)
        self._spec = policy.spec
        self.sha = policy.version
        self.content = path.read_bytes()
        self.obs_dim = policy.spec.obs_dim
        self.engine = self._backend.engine

    def actions(self, asks: Sequence[Ask]) -> list[np.ndarray | None]:
        """(action_dim,) float32 in environment units for each; None where this policy gives NaN or infinity."""
        found: list[np.ndarray | None] = []
        for start in range(0, len(asks), BATCH):
            part = asks[start : start + BATCH]
            observation = np.stack([ask.observation(self.obs_dim) for ask in part])
            n, m = zip(*(ask.budget for ask in part), strict=True)
            result = self._backend.sample_and_score(SampleBatch.of(observation, n, m, [ask.number for ask in part]))
            actions = self._spec.action_to_environment(result.action)
            found += [None if bad else action for action, bad in zip(actions, result.nonfinite, strict=True)]
        return found


def make_versions(folder: Path, backend: BackendChoice, precision: Precision) -> tuple[Version, Version]:
    """Two policies of one name with other weights.

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
    """Contents that must not be served: half a file, and one with a weight that is no number."""
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
    """When which version may have answered; times are the event loop's, seconds."""

    def __init__(self, sha: str) -> None:
        self._spans = [_Span(sha, float("-inf"))]

    def begins(self, sha: str, when: float) -> None:
        """From here on (the reload has been asked for) answers may be of this version, beside the one before."""
        self._spans.append(_Span(sha, when))

    def replaced(self, when: float) -> None:
        """From here on (the reload was answered) what is asked may only be answered by the newest version."""
        self._spans[-2].last = when

    def allows(self, sha: str, sent: float, received: float) -> bool:
        """May a request that was open from `sent` to `received` have been answered by this version?"""
        return any(span.sha == sha and span.first <= received and sent <= span.last for span in self._spans)
