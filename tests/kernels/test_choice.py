"""`create_backend`: which backend it makes, and without which packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import kernels.choice
import kernels.reference
from kernels.backend import BackendUnavailable
from kernels.choice import create_backend
from tests.policies import random_policy

ROOT = Path(__file__).parent.parent.parent

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # import triton raises ImportError
import numpy as np
from kernels.backend import BackendUnavailable, SampleBatch
from kernels.choice import create_backend
from tests.policies import random_policy
import service.app, bench.cli, kernels.gpu.configuration, kernels.gpu.packing
backend = create_backend(random_policy(), "auto", "cpu")
print(backend.sample_and_score(SampleBatch.of(np.zeros((1, 11), np.float32), 2, 2, 0)).index.shape, backend.engine)
try:
    create_backend(random_policy(), "triton", "cpu")
except BackendUnavailable as error:
    print(error)
"""


def test_everything_imports_and_samples_without_triton() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TRITON], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    sampled, refused = done.stdout.splitlines()
    assert sampled.startswith("(1,) ")
    assert "needs the package triton" in refused


@pytest.mark.parametrize(
    ("capability", "installed", "chosen", "warning"),
    [
        ((9, 0), True, "triton", ""),
        ((9, 0), False, "reference", "needs the package triton"),
        ((7, 5), True, "reference", "compute capability 8.0"),
    ],
)
def test_auto_takes_the_triton_backend_if_the_gpu_can_run_it(
    capability: tuple[int, int],
    installed: bool,
    chosen: str,
    warning: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Only the choice is tested here; tests/kernels/gpu tests the backend on a GPU."""

    def make_triton(*_: object) -> SimpleNamespace:
        if not installed:
            raise BackendUnavailable("backend 'triton' needs the package triton")
        return SimpleNamespace(engine="triton")

    policy = random_policy()
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(kernels.choice, "_make_triton", make_triton)
    monkeypatch.setattr(kernels.reference, "ReferenceBackend", lambda *_: SimpleNamespace(engine="reference"))
    assert create_backend(policy, "auto", "cuda").engine == chosen
    assert warning in caplog.text
    assert bool(warning) == any(record.levelname == "WARNING" for record in caplog.records)
