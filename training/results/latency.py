"""Latency of one request, in process, with the backend that evaluation uses."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import numpy as np
from sorl_client.statistics import percentiles
from tqdm import tqdm

from kernels.backend import Backend, SampleBatch
from kernels.machine import machine
from kernels.threads import limit_torch_threads
from training.results.protocol import Cell
from training.results.record import Row

WARM_UP = 5
REPEATS = 100
LONGEST_SECONDS = 3.0
"""A cell's measurement stops after this time, but not before ten repeats."""


def measure_latency(backend: Backend, inputs: np.ndarray, cells: Sequence[Cell], label: str) -> list[Row]:
    """One row per cell: median and 95th percentile of `sample_and_score` for one observation, in milliseconds.

    `inputs` is what the networks take of it, (1, input_dim). One compute thread, as in evaluation. `load` is the
    machine's load average: a busy machine is slower.
    """
    limit_torch_threads(1)
    rows: list[Row] = []
    for cell in tqdm(cells, unit="cell", desc=f"{label}: latency"):
        batches = [SampleBatch.of(inputs, cell.num_candidates, cell.num_steps, seed) for seed in range(REPEATS)]
        for batch in batches[:WARM_UP]:
            backend.sample_and_score(batch)
        taken: list[float] = []
        while len(taken) < REPEATS and (len(taken) < 10 or sum(taken) < 1000 * LONGEST_SECONDS):
            started = time.perf_counter()
            backend.sample_and_score(batches[len(taken)])
            taken.append(1000 * (time.perf_counter() - started))
        median, high = percentiles(taken, (50, 95))
        rows.append(
            {
                "num_candidates": cell.num_candidates,
                "num_steps": cell.num_steps,
                "p50_ms": round(median, 4),
                "p95_ms": round(high, 4),
                "repeats": len(taken),
                "engine": backend.engine,
                "threads": 1,
                "machine": machine(),
                "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else "",
            }
        )
    return rows
