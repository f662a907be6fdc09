"""The interface's factory, where no GPU and no triton is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # import triton raises ImportError
import numpy as np
from kernels.backend import BackendUnavailable, SampleBatch, create_backend
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
