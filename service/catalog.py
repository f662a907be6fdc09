"""Which policies are served, under which names and versions, and what they accept."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policy import PolicySpec
from service.admission import Admission
from service.errors import InvalidRequest, UnknownModel, VersionGone


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of the training data's observations, (obs_dim,) each."""

    mean: list[float]
    std: list[float]


@dataclass(frozen=True)
class Model:
    """A policy as clients see it.

    Attributes:
        version: sha256 of the checkpoint file.
        engine: what computes it.
        admission: its budget rule.
        statistics: of the observations it was trained on.
    """

    spec: PolicySpec
    version: str
    engine: str
    admission: Admission
    statistics: Statistics

    def rows_of(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """(obs_dim,) or (B, obs_dim) -> (B, obs_dim). Raises InvalidRequest for another obs_dim than the policy's."""
        if observation.shape[-1] != self.spec.obs_dim:
            raise InvalidRequest(
                f"observation: expected {self.spec.obs_dim} numbers a row (obs_dim of {self.spec.name!r}), "
                f"found {observation.shape[-1]}",
                field="observation",
            )
        return observation[None] if observation.ndim == 1 else observation

    def describe(self) -> dict[str, Any]:
        """What /models says: plain JSON values."""
        spec, limits = self.spec, self.admission.limits
        return {
            "name": spec.name,
            "version": self.version,
            "engine": self.engine,
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
            "default_budget": asdict(spec.default_budget),
            "frontier": [asdict(cell) for cell in spec.frontier],
            "headline": None if spec.headline is None else asdict(spec.headline),
            "normaliser": spec.normaliser,
            "observation_mean": self.statistics.mean,
            "observation_std": self.statistics.std,
            "provenance": asdict(spec.provenance),
        }


class Catalog:
    """The models served, by name; the first is what a request without a name gets."""

    def __init__(self, models: list[Model]) -> None:
        self._models = {model.spec.name: model for model in models}
        self._default = models[0]

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def find(self, name: str | None, version: str | None = None) -> Model:
        """The model a request means.

        Raises:
            UnknownModel: no such name.
            VersionGone: served, and in another version.
        """
        model = self._default if name is None else self._models.get(name)
        if model is None:
            assert name is not None
            nearest = (difflib.get_close_matches(name, self._models, n=1, cutoff=0.0) or [self._default.spec.name])[0]
            raise UnknownModel(f"model: {name[:80]!r} is not served here; did you mean {nearest!r}?", field="model")
        if version is not None and version != model.version:
            raise VersionGone(
                f"model_version: {model.spec.name!r} is served in version {model.version}, not {version[:80]!r}",
                field="model_version",
            )
        return model
