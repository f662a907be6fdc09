"""The computation of all peers: a policy in eager torch, for batches of decoded JSON bodies."""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.peers import torch_sampler
from policy import load_policy

MAX_BATCH = 16
BATCH_WAIT_MS = 1
"""Limits of a framework's dynamic batching: the most requests, and the longest wait after the first, in ms."""


@dataclass(frozen=True)
class Options:
    """A peer's options: `threads` are compute threads per worker process, `precision` is that of all products."""

    model: Path
    port: int
    threads: int
    workers: int
    precision: str

    @classmethod
    def parse(cls) -> Options:
        """Parse the command line, which a framework's worker processes share."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--model", type=Path, required=True)
        parser.add_argument("--port", type=int, required=True)
        parser.add_argument("--threads", type=int, default=1)
        parser.add_argument("--workers", type=int, default=1)
        parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
        return cls(**vars(parser.parse_args()))


class TorchPolicy:
    """Samples a policy for a batch of requests; those of equal N and M share their matrix products."""

    def __init__(self, options: Options) -> None:
        torch.set_num_threads(options.threads)
        torch.set_float32_matmul_precision("medium")  # uses oneDNN for fp32 too: MKL uses only AVX2 on AMD processors
        self._dtype = torch.float32 if options.precision == "fp32" else torch.bfloat16
        self._policy = load_policy(options.model).to(self._dtype)

    @torch.inference_mode()
    def __call__(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Replies to decoded bodies, in order. A body has observation, num_candidates, num_steps, and optionally noise
        (N, chunk_dim)."""
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[request["num_candidates"], request["num_steps"]].append(index)
        replies: list[dict[str, Any]] = [{} for _ in requests]
        for (n, m), members in groups.items():
            observation = torch.tensor([requests[i]["observation"] for i in members], dtype=self._dtype)
            noise = torch.cat([self._noise(requests[i], n) for i in members])
            actions, values = torch_sampler(self._policy, n, m)(observation, noise)
            environment = self._policy.spec.action_to_environment(actions.float()).tolist()
            for index, action, value in zip(members, environment, values.tolist(), strict=True):
                replies[index] = {"action": action, "q": value, "num_candidates": n, "num_steps": m}
        return replies

    def _noise(self, request: dict[str, Any], n: int) -> Tensor:
        if "noise" in request:
            return torch.tensor(request["noise"], dtype=self._dtype)
        return torch.randn(n, self._policy.spec.chunk_dim, dtype=self._dtype)
