"""Buffers for batches of up to a given size, allocated once, and the CUDA graph that computes in them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kernels.backend import SampleBatch
from kernels.gpu.arena import Layout, Stage
from kernels.gpu.configuration import Tile
from kernels.gpu.launch import dimensions, launch, phases
from kernels.gpu.packing import PackedPolicy, Widths
from policy import PolicySpec


class Bucket:
    """Buffers and CUDA graph for batches of up to `requests` requests and `rows` rows.

    `arguments` are the kernel's arguments by name, except the phase and the compile-time constants.

    Args:
        spec, packed: the policy.
        tile: the tile of all batches of this bucket.
        requests, rows: the maximum batch; rows is a multiple of the tile's rows.
        device: a CUDA device, or the CPU under the interpreter.
        scratch: the element type of hidden activations.
        stream: the backend's CUDA stream; None under the interpreter.
    """

    def __init__(
        self, spec: PolicySpec, packed: PackedPolicy, tile: Tile, requests: int, rows: int, device: torch.device,
        scratch: torch.dtype, stream: torch.cuda.Stream | None,
    ) -> None:  # fmt: skip
        self.tile, self.requests, self.rows = tile, requests, rows
        self._widths = widths = Widths.of(spec)
        self._stream = stream
        self._layout = Layout(requests, rows, widths, spec.chunk_dim)
        self._host = torch.empty(self._layout.size, dtype=torch.uint8, pin_memory=stream is not None)
        self.stage = Stage(self._layout, self._host)
        self._groups = rows // tile.rows
        self._slices = _slices(tile, widths, self._groups, device)
        critic_blocks = -(-widths.critic // tile.columns)
        sums = widths.members * widths.critic_layers * critic_blocks
        with torch.cuda.stream(stream):  # the zeros must be written before the kernel runs on this stream
            self._block = torch.zeros(self._layout.size, dtype=torch.uint8, device=device)
            self.scratch = {
                "x": torch.zeros(self._slices, rows, widths.action, device=device),
                "hidden": torch.zeros(2, rows, widths.hidden_stride, dtype=scratch, device=device),
                "share": torch.zeros(rows, widths.actor_stride, device=device),
                "partials": torch.zeros(sums, 3, rows, device=device),
                "row_deviation": torch.zeros(rows, device=device),
            }
        self.arguments: dict[str, Tensor | int] = {
            **self._layout.views(self._block),
            **self.scratch,
            **vars(packed),
            **dimensions(widths, spec, rows),
        }
        self._graph: torch.cuda.CUDAGraph | None = None

    def run(self, batch: SampleBatch, observation: np.ndarray, order: np.ndarray) -> None:
        """Compute `batch`, with its requests in `order`, and wait for the results, which are then in `stage`."""
        self.stage.write(batch, observation, order)
        if self._stream is None:
            self._block.copy_(self._host)
            self._compute(int(batch.num_steps.max()))
            self._host.copy_(self._block)
            return
        with torch.cuda.stream(self._stream):
            if self._graph is None:
                self._enqueue()  # compiles the kernel
                self._stream.synchronize()
                self.stage.write(batch, observation, order)
                self._graph = torch.cuda.CUDAGraph()
                # thread_local: other threads (a second model's, a profiler's) may use the device during the capture.
                with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                    self._enqueue()
            self.replay()
        self._stream.synchronize()

    def replay(self) -> None:
        """Enqueue the graph again on the current stream, for the staged batch. CUDA only, after a `run`."""
        assert self._graph is not None
        self._graph.replay()

    def candidates(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """All candidates of the last batch, (rows, chunk_dim), and their values' deviations, (rows,); in the staged
        order.
        """
        chunk_dim = self._layout.fields["action"].shape[1]
        deviations = self.scratch["row_deviation"][:rows].cpu().numpy()
        return self.scratch["x"][0, :rows, :chunk_dim].cpu().numpy(), deviations

    def _enqueue(self) -> None:
        """Copy in, one launch, copy out."""
        self._block.copy_(self._host, non_blocking=True)
        launch(self.tile, self._groups, self._slices, self.arguments)
        at = self._layout.replies_at
        self._host[at:].copy_(self._block[at:], non_blocking=True)

    def _compute(self, longest: int) -> None:
        """Compute under the interpreter. It runs programs one after another, so each barrier ends a launch."""
        if not self.tile.split:
            launch(self.tile, self._groups, self._slices, self.arguments)
            return
        for phase in range(phases(self._widths, longest)):
            launch(self.tile, self._groups, self._slices, self.arguments, phase)


def _slices(tile: Tile, widths: Widths, groups: int, device: torch.device) -> int:
    """The number of programs that share a group's columns: as many as run at once, one per SM. It changes no bits."""
    if not tile.split:
        return 1
    blocks = -(-max(widths.actor, widths.critic) // tile.columns)
    sms = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132
    return min(blocks, max(1, sms // groups))
