"""`Model`: one version of a policy, loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policy import PolicySpec, dominating
from service.budget import Admission
from service.engine import Engine
from service.errors import InvalidRequest


@dataclass(frozen=True)
class Model:
    """A policy as clients see it. Its weights stay in memory as long as anybody holds it.

    Attributes:
        version: sha256 of the checkpoint file.
        engine: computes it.
        admission: grants its budgets.
    """

    spec: PolicySpec
    version: str
    engine: Engine
    admission: Admission

    @property
    def name(self) -> str:
        """What requests call it."""
        return self.spec.name

    def rows_of(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """(obs_dim,) or (B, obs_dim) -> (B, obs_dim). Raises InvalidRequest for another obs_dim than the policy's."""
        if observation.shape[-1] != self.spec.obs_dim:
            raise InvalidRequest(
                f"observation: expected {self.spec.obs_dim} numbers a row (obs_dim of {self.spec.name!r}), "
                f"found {observation.shape[-1]}",
                field="observation",
            )
        return observation[None] if observation.ndim == 1 else observation

    def _batches(self) -> list[dict[str, int]]:
        """`max_batch` as a request meets it: the larger the budget, the sooner `max_seconds` is what refuses."""
        spec, limits = self.spec, self.admission.limits
        default = spec.default_budget
        budgets = {(default.num_candidates, default.num_steps), (limits.max_candidates, limits.max_steps)}
        return [
            {"num_candidates": n, "num_steps": m, "max_batch": self.admission.largest_batch(n, m)}
            for n, m in sorted(budgets)
        ]

    def _frontier(self) -> list[dict[str, Any]]:
        """The measured cells, each with whether a cheaper one measured as well or better."""
        cells = self.spec.frontier
        return [asdict(cell) | {"dominated": dominating(cell, cells) is not None} for cell in cells]

    def describe(self) -> dict[str, Any]:
        """Its entry in /models: plain JSON values."""
        spec, limits = self.spec, self.admission.limits
        return {
            "name": spec.name,
            "version": self.version,
            "engine": self.engine.name,
            "obs_dim": spec.obs_dim,
            "action_dim": spec.action_dim,
            "action_low": list(spec.action_low),
            "action_high": list(spec.action_high),
            "control_hz": spec.control_hz,
            "denoise_timesteps": spec.denoise_timesteps,
            "max_candidates": limits.max_candidates,
            "max_steps": limits.max_steps,
            "max_batch": limits.max_batch,
            "max_seconds": limits.max_seconds,
            "max_returned_candidates": limits.max_returned,
            "max_batch_by_budget": self._batches(),
            "default_budget": asdict(spec.default_budget),
            "frontier": self._frontier(),
            "headline": None if spec.headline is None else asdict(spec.headline),
            "normaliser": spec.normaliser,
            "observation_mean": self.engine.observation_mean.tolist(),
            "observation_std": self.engine.observation_std.tolist(),
            "provenance": asdict(spec.provenance),
        }
