from __future__ import annotations

import os

# Before NumPy: OpenBLAS threads on matrices of 64 x 64 cost more than they bring.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
import torch

from tests.fixture import Fixture

if not torch.cuda.is_available():
    # Before anything imports triton: without a card its kernels run in the interpreter.
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def release() -> Fixture:
    """Figures from the released JAX code."""
    return Fixture()
