"""One block of memory with all inputs and results of a launch, so that each launch needs one copy in each direction.

    | header | table | observation | ... | row_request || action | value | ... | row_value |
      ------------------ copied in ------------------------------------------------------>
                                                        <---------- copied out ----------

The results are copied in too, filled with NaN and -1, so that values which the kernel leaves unwritten are detected.
The keys and counters of the selection across tiles are inputs too: every launch starts with fresh ones, even after an
aborted launch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kernels.backend import SampleBatch
from kernels.gpu.packing import Widths

ALIGNMENT = 256  # bytes; a row of 16 float32 must not cross a cache line
NO_KEY = np.iinfo(np.int64).min
UNWRITTEN = -1


@dataclass(frozen=True)
class Field:
    """A named array in the block: offset in bytes, element type and shape."""

    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]


class Layout:
    """The offsets of all arrays in the block, for up to `requests` requests and `rows` rows (a multiple of any tile's).

    Inputs: header (total rows), table (steps, first candidate, first row, number of rows of each request), observation
    (normalised), temperature, seed, best and arrived (key and counter of the selection), barrier_counts (of the split
    mode), row_request (the request of each row).
    Results: action, value, deviation, index, nonfinite of each request; row_value.
    """

    def __init__(self, requests: int, rows: int, widths: Widths, chunk_dim: int) -> None:
        self.requests, self.rows = requests, rows
        f32, i32, i64 = torch.float32, torch.int32, torch.int64
        inputs: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "header": (i32, (4,)),
            "table": (i32, (requests, 4)),
            "observation": (f32, (requests, widths.observation)),
            "temperature": (f32, (requests,)),
            "seed": (i64, (requests,)),
            "best": (i64, (requests,)),
            "arrived": (i32, (requests,)),
            "barrier_counts": (i32, (rows // 16,)),
            "row_request": (i32, (rows,)),
        }
        replies: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "action": (f32, (requests, chunk_dim)),
            "value": (f32, (requests,)),
            "deviation": (f32, (requests,)),
            "index": (i32, (requests,)),
            "nonfinite": (i32, (requests,)),
            "row_value": (f32, (rows,)),
        }
        self.fields: dict[str, Field] = {}
        self.size = 0
        for name, (dtype, shape) in inputs.items():
            self._add(name, dtype, shape)
        self.replies_at = self.size
        for name, (dtype, shape) in replies.items():
            self._add(name, dtype, shape)

    def _add(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        self.fields[name] = Field(self.size, dtype, shape)
        length = math.prod(shape) * dtype.itemsize
        self.size += -(-length // ALIGNMENT) * ALIGNMENT

    def views(self, block: Tensor) -> dict[str, Tensor]:
        """Views of the arrays in `block`, (size,) uint8, by name."""
        return {
            name: block[field.offset : field.offset + math.prod(field.shape) * field.dtype.itemsize]
            .view(field.dtype)
            .view(field.shape)
            for name, field in self.fields.items()
        }


class Stage:
    """The block in host memory: `write` stages a batch in it, `reply` reads results from it."""

    def __init__(self, layout: Layout, block: Tensor) -> None:
        self._layout = layout
        self._arrays = {name: view.numpy() for name, view in layout.views(block).items()}
        for array in self._arrays.values():
            array.fill(0)

    def write(self, batch: SampleBatch, observation: np.ndarray, order: np.ndarray) -> None:
        """Stage `batch` with its requests in `order`; `observation`, (R, obs_dim), is normalised."""
        a, requests = self._arrays, len(batch)
        counts = batch.num_candidates[order]
        total = int(counts.sum())
        a["header"][0] = total
        table = a["table"][:requests]
        table[:, 0] = batch.num_steps[order]
        table[:, 1] = batch.first_candidate[order]
        table[:, 2] = np.cumsum(counts) - counts
        table[:, 3] = counts
        a["observation"][:requests, : observation.shape[1]] = observation[order]
        a["temperature"][:requests] = batch.temperature[order]
        a["seed"][:requests] = batch.seed[order].view(np.int64)
        a["best"][:requests] = NO_KEY
        a["arrived"].fill(0)
        a["barrier_counts"].fill(0)
        a["row_request"][:total] = np.repeat(np.arange(requests, dtype=np.int32), counts)
        a["row_request"][total:] = 0
        for name in ("action", "value", "deviation", "row_value"):
            a[name].fill(np.nan)
        for name in ("index", "nonfinite"):
            a[name].fill(UNWRITTEN)

    def reply(self, name: str) -> np.ndarray:
        """The result array `name`, with requests in the staged order; valid until the next `write`."""
        return self._arrays[name]
