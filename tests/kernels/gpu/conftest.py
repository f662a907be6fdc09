"""On a CUDA device where there is one, in Triton's interpreter elsewhere, and not at all without triton."""

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
    """In the interpreter `tl.dot` sums over k in order, whatever the row, as a device's does.

    It calls NumPy's matmul, and of OpenBLAS's kernels some (Haswell's, Zen's) round a row by its place in the tile:
    then a request alone differs in the last bit from itself in company, and equal candidates do not tie.
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
    """`TritonBackend(policy, **options)` on whatever this machine has."""

    def make(policy: Policy, **options: Any) -> TritonBackend:
        return TritonBackend(policy, "cuda" if torch.cuda.is_available() else "cpu", TritonOptions(**options))

    return make


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The grids of all kernel launches from here on, noted where Triton starts them."""
    if torch.cuda.is_available():
        pytest.skip("a CUDA graph launches without passing here")
    from kernels.gpu.kernel import sample_and_score

    grids: list[tuple[int, ...]] = []
    run = sample_and_score.run

    def counted(*arguments: Any, grid: tuple[int, ...], **keywords: Any) -> Any:
        grids.append(grid)
        return run(*arguments, grid=grid, **keywords)

    monkeypatch.setattr(sample_and_score, "run", counted)
    return grids
