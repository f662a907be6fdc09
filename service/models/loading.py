"""From a policy to a `Model`: which backend computes it, and what one request may ask of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from kernels.backend import Backend, BackendChoice, Precision
from kernels.choice import create_backend
from kernels.gpu.configuration import TritonOptions
from kernels.threads import at_most_cores
from policy import CheckpointError, Policy, PolicySpec, load_policy, policy_files
from service.budget import Admission, Limits
from service.engine import BatchReport, Device, Engine
from service.models.model import Model
from service.settings import Settings

MakeBackend = Callable[[Policy, BackendChoice, str, Precision, int], Backend]


class Loader:
    """Makes models as the settings say.

    Args:
        make_backend: None: `kernels.choice.create_backend` with the settings' options.
        device: see `Engine`.
        batch_counter: makes the `on_batch` of a policy's engine.
    """

    def __init__(
        self,
        settings: Settings,
        make_backend: MakeBackend | None,
        device: Device,
        batch_counter: Callable[[PolicySpec], Callable[[BatchReport], None]],
    ) -> None:
        triton = TritonOptions(replay=settings.triton_replay, split=settings.triton_split)
        self._settings = settings
        self._make_backend = make_backend or partial(create_backend, triton=triton, in_steps=True)
        self._device = device
        self._batch_counter = batch_counter

    def model(self, policy: Policy) -> Model:
        """`policy` behind a backend of its own, not warmed up: the engine's warm-up also finishes its making.

        Raises:
            BackendUnavailable: the backend or device asked for can't run here.
            DeviceFailure: the device has no room for the policy.
        """
        settings = self._settings
        threads = at_most_cores(settings.threads)
        backend = self._make_backend(policy, settings.backend, settings.device, settings.precision, threads)
        engine = Engine(
            policy,
            backend,
            max_batch_rows=settings.max_batch_rows,
            max_batch_seconds=settings.slice_ms / 1000,
            device=self._device,
            on_batch=self._batch_counter(policy.spec),
        )
        limits = Limits(
            max_candidates=settings.max_candidates,
            max_steps=settings.max_steps,
            max_batch=settings.max_batch,
            max_returned=settings.max_returned_candidates,
            max_seconds=settings.max_queue_seconds,
        )
        return Model(policy.spec, policy.version, engine, Admission(policy.spec, limits, engine.cost))

    def load_all(self) -> tuple[list[Model], dict[str, Path]]:
        """Every policy at the setting `model`, and the file of each by name.

        Raises:
            CheckpointError: a file is missing or damaged, or two files hold policies of one name.
            BackendUnavailable, DeviceFailure: see `model`.
        """
        policies: list[Policy] = []
        paths: dict[str, Path] = {}
        for path in policy_files(self._settings.model):
            policy = load_policy(path)
            if (other := paths.setdefault(policy.spec.name, path)) != path:
                raise CheckpointError(same_name(policy.spec.name, [other, path]))
            policies.append(policy)
        return [self.model(policy) for policy in policies], paths


def same_name(name: str, paths: list[Path]) -> str:
    """The error text for several files that hold policies of one name."""
    return f"{' and '.join(map(str, paths))} both hold {name!r}, and a name is served from one file"
