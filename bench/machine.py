"""The machine of a measurement: its description, and its peak rate of matrix products."""

from __future__ import annotations

import time

import torch

from kernels.machine import machine

PEAK_SHAPE = (256, 512, 512)
"""Rows, inputs, outputs of the measured product: a batch of 256 through a hidden layer of the paper's width."""


def describe() -> str:
    """Processor, cores and libraries in one line."""
    return f"{machine()}, torch {torch.__version__}"


def gemm_peak(dtype: torch.dtype, threads: int, seconds: float = 0.5) -> float:
    """The highest GFLOP/s of a product of `PEAK_SHAPE` in `seconds`, by torch and oneDNN with `threads` threads.

    It is the highest, not the median, because it stands for the undisturbed machine.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("medium")  # uses oneDNN for fp32 too: MKL uses only AVX2 on AMD processors
    m, k, n = PEAK_SHAPE
    a, b = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        torch.nn.functional.linear(a, b)
        best = min(best, time.perf_counter() - start)
    torch.set_num_threads(before)
    return 2e-9 * m * k * n / best
