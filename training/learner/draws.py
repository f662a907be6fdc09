"""The randomness of one update, and the random stream that it is drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Draws(NamedTuple):
    """All randomness of one update: noise, times, and k, the number of steps of each sampled action."""

    critic_k: int
    critic_noise: Tensor  # (n * B, chunk_dim), B rows of each of n candidates
    flow_t: Tensor  # (B, 1)
    flow_noise: Tensor  # (B, chunk_dim)
    consistency_t: Tensor  # (B, 1)
    consistency_noise: Tensor  # (B, chunk_dim)
    q_k: int
    q_noise: Tensor  # (B, chunk_dim)

    def tensors(self) -> list[Tensor]:
        """Every field but the two k."""
        return [value for value in self if isinstance(value, Tensor)]

    def replace_tensors(self, tensors: Sequence[Tensor]) -> Draws:
        """The same k with other tensors, in the order of `tensors()`."""
        others = iter(tensors)
        values: list[Any] = [next(others) if isinstance(value, Tensor) else value for value in self]
        return Draws(*values)


class RandomStream:
    """The random numbers of a run.

    `device` generates what operators read. `host` generates what the host decides by, that is k. On a CPU the two are
    one generator. On a CUDA card, reading a number back would wait for all updates queued before it.
    """

    def __init__(self, device: str | torch.device, seed: int) -> None:
        self.device = torch.Generator(device).manual_seed(seed)
        self.host = self.device if self.device.device.type == "cpu" else torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Tensor]:
        """The generators' states by name: "generator" on a CPU, "device" and "host" on a card."""
        generators = {"generator": self.device} if self.host is self.device else vars(self)
        return {name: generator.get_state() for name, generator in generators.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue the stream that `state` was taken from.

        If the run moved between CPU and card, the stream is a new one: the two kinds of generator cannot continue each
        other. Its seed is drawn from the old host generator, so that no number occurs twice.
        """
        host = torch.Generator()
        host.set_state(state["generator" if "generator" in state else "host"].cpu())
        if ("generator" in state) == (self.host is self.device):
            self.host.set_state(host.get_state())
            if self.host is not self.device:
                self.device.set_state(state["device"].cpu())
            return
        for generator in {self.host, self.device}:
            generator.manual_seed(int(torch.randint(2**62, (), generator=host)))
