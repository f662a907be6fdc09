"""A small policy in a file, apps that serve it in process, and a backend that tests can stop, break and count."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from kernels.backend import Backend, SampleBatch, SampleResult
from kernels.choice import create_backend
from policy import Budget, Policy, PolicySpec, save_policy
from service.app import create_app
from service.settings import Settings
from tests.policies import random_policy

OBS_DIM, ACTION_DIM = 6, 3
WAIT = 30  # seconds until a wait for an event that must come is called a failure

SPEC = PolicySpec(
    name="small",
    obs_dim=OBS_DIM,
    action_dim=ACTION_DIM,
    action_low=(-2.0, -1.0, 0.0),
    action_high=(1.0, 1.0, 4.0),
    actor_hidden=(32, 32),
    critic_hidden=(32, 32),
    normaliser="standardise",
    default_budget=Budget(num_candidates=8, num_steps=4),
)


class GatedBackend:
    """A real backend behind a gate. While the gate is shut a batch waits inside, as if compute took that long."""

    def __init__(self, policy: Policy) -> None:
        self._inner = create_backend(policy, "reference", "cpu")
        self.engine = self._inner.engine
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[SampleBatch] = []
        self.spoil: Callable[[SampleBatch, SampleResult], SampleResult] | None = None

    def sample_and_score(self, batch: SampleBatch) -> SampleResult:
        self.batches.append(batch)
        self.entered.release()
        assert self.gate.wait(WAIT)
        result = self._inner.sample_and_score(batch)
        return result if self.spoil is None else self.spoil(batch, result)

    def shut(self) -> None:
        """From here on batches wait inside, and only they are counted."""
        self.gate.clear()
        self.batches.clear()
        self.entered = threading.Semaphore(0)


Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_sorl_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SORL_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "small.safetensors"
    generator = torch.Generator().manual_seed(7)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        policy = Policy(SPEC)
    policy.observation_mean.copy_(torch.randn(OBS_DIM, generator=generator))
    policy.observation_std.copy_(0.5 + torch.rand(OBS_DIM, generator=generator))
    save_policy(policy, path)
    return path


@pytest.fixture
def make_settings(checkpoint: Path) -> Callable[..., Settings]:
    return lambda **changes: Settings(**{"model": checkpoint, "threads": 1, "precision": "fp32", **changes})


@pytest.fixture
def serve(make_settings: Callable[..., Settings]) -> Serve:
    """`async with serve(backend=..., **settings) as client`: a warm app in process; client.app is the FastAPI app."""

    @asynccontextmanager
    async def run(
        make_backend: Callable[..., Backend] | None = None, settle: bool = True, **changes: Any
    ) -> AsyncIterator[httpx.AsyncClient]:
        app = create_app(make_settings(**changes), make_backend)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://sorl", timeout=WAIT) as client,
        ):
            client.app = app  # type: ignore[attr-defined]
            if settle:
                await app.state.runtime.lifecycle.settled()
            yield client

    return run


@pytest.fixture
def gated() -> tuple[Callable[..., GatedBackend], list[GatedBackend]]:
    """(a `make_backend` for `serve`, the list in which its backend will be)."""
    made: list[GatedBackend] = []

    def make(policy: Policy, *choices: object) -> GatedBackend:
        made.append(GatedBackend(policy))
        return made[-1]

    return make, made


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(name, seed, **spec)`: a policy of `SPEC`'s dimensions with its own weights, in the folder `policies`."""

    def write_policy(name: str, seed: int, file: str = "", **changes: Any) -> Path:
        path = tmp_path / "policies" / f"{file or name}.safetensors"
        fields = {"obs_dim": OBS_DIM, "action_dim": ACTION_DIM, "action_low": SPEC.action_low, "name": name}
        fields |= {"action_high": SPEC.action_high, "default_budget": SPEC.default_budget}
        save_policy(random_policy(seed, **{**fields, **changes}), path)
        return path

    return write_policy


@pytest.fixture
def observations() -> Callable[[int], list[list[float]]]:
    """Rows of plain numbers, the same for the same count."""
    return lambda rows: np.random.default_rng(rows).normal(size=(rows, OBS_DIM)).round(4).tolist()
