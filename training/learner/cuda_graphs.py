"""`CapturedStep`: a step of the learner as CUDA graphs, one launch in place of some 250 small ones.

At 256 transitions a card computes an update's matrix products faster than the host can launch them. A graph fixes all
shapes and everything that the host decides, so there is one graph for each k, the number of steps of the sampled
action.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from training.batch import Batch
from training.learner.draws import Draws
from training.losses import Info

Step = Callable[[Batch, Draws], Info]


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    info: Info


class CapturedStep:
    """`step`, replayed from CUDA graphs.

    The first call with a k runs `step` eagerly. That is the warm-up that a capture needs (optimiser states, cuBLAS
    handles), and an update like any other. The second call captures it. The returned tensors hold until the next call
    with the same k.

    Args:
        step: reads nothing but its arguments and memory that stays where it is.
        k: the part of the draws that the host decides by.
    """

    def __init__(self, step: Step, k: Callable[[Draws], int]) -> None:
        self._step, self._k = step, k
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graphs: dict[int, _Graph | None] = {}

    def __call__(self, batch: Batch, draws: Draws) -> Info:
        k = self._k(draws)
        if k not in self._graphs:
            self._graphs[k] = None
            return self._run_eagerly(batch, draws)
        captured = self._graphs[k] or self._capture(batch, draws)
        self._graphs[k] = captured
        torch._foreach_copy_(captured.inputs, [*batch, *draws.tensors()])
        captured.graph.replay()
        return captured.info

    def _run_eagerly(self, batch: Batch, draws: Draws) -> Info:
        """On the captures' stream, so that what autograd and cuBLAS keep per stream is warm there."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            info = self._step(batch, draws)
        torch.cuda.current_stream().wait_stream(self._stream)
        return info

    def _capture(self, batch: Batch, draws: Draws) -> _Graph:
        batch = Batch(*(tensor.clone() for tensor in batch))
        draws = draws.replace_tensors([tensor.clone() for tensor in draws.tensors()])
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            info = self._step(batch, draws)
        return _Graph(graph, [*batch, *draws.tensors()], info)
