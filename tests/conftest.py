"""Shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.parity import ParityFile

# Figures made by running the released JAX code (docs/algorithm.md): "small" has the paper's settings, "min" others
# (least of two critics, three layers, M_BTT 4; written by tests/fixtures/make_parity_file.py).
PARITY_FILES = {
    name: Path(__file__).parent / "fixtures" / f"sorl_reference_{name}.safetensors" for name in ("small", "min")
}


@pytest.fixture(scope="session")
def release() -> ParityFile:
    """Figures from the released JAX code."""
    return ParityFile(PARITY_FILES["small"])
