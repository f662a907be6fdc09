"""`Model`: one version of a policy, loaded."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.commitment import Commitment
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

    def rows_of(self, observation: NDArray[np.float32] | Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """(obs_dim,), (B, obs_dim), or parts of these by name -> (B, obs_dim).

        Raises:
            InvalidRequest: another obs_dim than the policy's, or other parts than its observation_keys.
        """
        vector = self._joined(observation) if isinstance(observation, Mapping) else observation
        if vector.shape[-1] != self.spec.obs_dim:
            raise InvalidRequest(
                f"observation: expected {self.spec.obs_dim} numbers a row (obs_dim of {self.spec.name!r}"
                f"{self._parts(': ')}), found {vector.shape[-1]}",
                field="observation",
            )
        return vector[None] if vector.ndim == 1 else vector

    def commitment_of(
        self, committed: NDArray[np.float32] | None, coherence: float | None, rows: int
    ) -> Commitment | None:
        """What a request of so many rows says of the actions that its robots execute meanwhile.

        Args:
            committed: (d, action_dim) for a single row, or (B, d, action_dim), in environment units.

        Raises:
            InvalidRequest: the policy has no chunks, or too short ones; other axes; or coherence with nothing to be
                coherent with.
        """
        spec, most = self.spec, self.spec.action_horizon - 1
        if committed is None:
            if coherence is not None:
                raise InvalidRequest("coherence: it counts with `committed` only", field="coherence")
            return None
        if most == 0:
            raise InvalidRequest(
                f"committed: {spec.name!r} answers with single actions (its action_horizon is 1): leave it out",
                field="committed",
            )
        actions = committed[None] if committed.ndim == 2 else committed
        if len(actions) != rows or not 1 <= actions.shape[1] <= most or actions.shape[2] != spec.action_dim:
            batch = "" if rows == 1 else f"{rows}, "
            raise InvalidRequest(
                f"committed: expected shape ({batch}d, {spec.action_dim}), d from 1 to {most} (action_horizon - 1 of "
                f"{spec.name!r}), found {committed.shape}",
                field="committed",
            )
        return Commitment(
            spec.action_from_environment(actions), spec.coherence if coherence is None else float(coherence)
        )

    def _joined(self, parts: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """(obs_dim,) or (B, obs_dim), in the order of the policy's observation_keys."""
        keys = self.spec.observation_keys
        if not keys:
            raise InvalidRequest(
                f"observation: expected one vector of {self.spec.obs_dim} numbers (obs_dim of {self.spec.name!r}, "
                f"which has no observation_keys), found parts: {reprlib.repr(sorted(parts))}",
                field="observation",
            )
        expected = f"expected {self._parts()}"
        if extra := parts.keys() - {key.name for key in keys}:
            name = min(extra)
            raise self._refusal(name, f"{self.spec.name!r} has no such part: {expected}")
        for name, size in ((key.name, key.size) for key in keys):
            if name not in parts:
                raise self._refusal(name, f"it is missing: {expected}")
            if parts[name].shape[-1] != size:
                raise self._refusal(name, f"expected {size} numbers a row, found {parts[name].shape[-1]}")
        return np.concatenate([parts[key.name] for key in keys], axis=-1)

    def _parts(self, before: str = "") -> str:
        """Names and sizes of the observation's parts, behind `before`; empty if they have no names."""
        parts = ", ".join(f"{key.name} {key.size}" for key in self.spec.observation_keys)
        return parts and before + parts

    @staticmethod
    def _refusal(name: str, problem: str) -> InvalidRequest:
        field = f"observation/{name}"
        return InvalidRequest(f"{reprlib.repr(field)[1:-1]}: {problem}", field=field)

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
            "observation_keys": [asdict(key) for key in spec.observation_keys],
            "action_dim": spec.action_dim,
            "action_horizon": spec.action_horizon,
            "prefix_max": spec.prefix_max,
            "coherence": spec.coherence,
            "temperature": spec.temperature,
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
