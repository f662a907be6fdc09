"""Fixtures of the Triton tests. They run on a CUDA device if there is one, else in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="needs the extra gpu")

from kernels.gpu.backend import TritonBackend
from kernels.gpu.configuration import TritonOptions
from policy import Policy

MakeTriton = Callable[..., TritonBackend]


@pytest.fixture(autouse=True)
def dots_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the interpreter's `tl.dot` sum over k in the same order for every row, as a device does.

    The interpreter calls NumPy's matmul, and some of OpenBLAS's kernels (Haswell's, Zen's) round a row by its position
    in the tile. A request's last bit would then depend on its batch, and equal candidates would not tie.
    """
    if torch.cuda.is_available():
        return
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def create_dot(_: Any, a: Any, b: Any, d: Any, *precision: Any) -> Any:
        total = np.zeros_like(d.data)
        for k in range(a.data.shape[1]):
            total += a.data[:, k, None].astype(total.dtype) * b.data[k].astype(total.dtype)
        return TensorHandle(total + d.data, d.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)


@pytest.fixture
def triton_backend() -> MakeTriton:
    """Makes `TritonBackend(policy, **options)` on the CUDA device or in the interpreter."""

    def make(policy: Policy, **options: Any) -> TritonBackend:
        return TritonBackend(policy, "cuda" if torch.cuda.is_available() else "cpu", TritonOptions(**options))

    return make


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The grids of all kernel launches during the test, recorded where Triton starts them."""
    if torch.cuda.is_available():
        pytest.skip("launches from a CUDA graph can't be recorded")
    from kernels.gpu.kernel import sample_and_score

    grids: list[tuple[int, ...]] = []
    run = sample_and_score.run

    def counted(*arguments: Any, grid: tuple[int, ...], **keywords: Any) -> Any:
        grids.append(grid)
        return run(*arguments, grid=grid, **keywords)

    monkeypatch.setattr(sample_and_score, "run", counted)
    return grids
