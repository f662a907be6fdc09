"""Shared by all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Before NumPy: OpenBLAS threads on matrices of 64 x 64 cost more than they bring.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
import torch

from tests.clock import Clock
from training.release.parity_file import ParityFile

# Figures made by running the released JAX code (docs/algorithm.md): "small" has the paper's settings, "min" others
# (least of two critics, three layers, M_BTT 4; written by tests/fixtures/make_parity_file.py).
PARITY_FILES = {
    name: Path(__file__).parent / "fixtures" / f"sorl_reference_{name}.safetensors" for name in ("small", "min")
}

if not torch.cuda.is_available():
    # Before anything imports triton: without a card its kernels run in the interpreter.
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def release() -> ParityFile:
    """Figures from the released JAX code."""
    return ParityFile(PARITY_FILES["small"])


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def _no_app_outlives_its_test() -> Iterator[None]:
    """FastAPI's caches hold 4,096 endpoints, and by them all that these refer to. What the apps of 2,000 tests left
    behind made a collection of garbage, of which a server does one as it starts, take a second.
    """
    yield
    models = sys.modules.get("fastapi.dependencies.models")
    for cached in vars(models).values() if models else ():
        if hasattr(cached, "cache_clear"):
            cached.cache_clear()
