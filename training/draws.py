"""The randomness of an update, and the stream it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Draws(NamedTuple):
    """All randomness of one update."""

    critic_k: int
    critic_noise: Tensor  # (B, action_dim)
    flow_t: Tensor  # (B, 1)
    flow_noise: Tensor  # (B, action_dim)
    consistency_t: Tensor  # (B, 1)
    consistency_noise: Tensor  # (B, action_dim)
    q_k: int
    q_noise: Tensor  # (B, action_dim)

    def tensors(self) -> list[Tensor]:
        """Everything but the two k."""
        return [value for value in self if isinstance(value, Tensor)]

    def replace_tensors(self, tensors: Sequence[Tensor]) -> Draws:
        """The same k with other `tensors()`."""
        others = iter(tensors)
        values: list[Any] = [next(others) if isinstance(value, Tensor) else value for value in self]
        return Draws(*values)


class RandomStream:
    """Where a run's random numbers come from: `device` for what operators read, `host` for what the host decides by.

    On a CPU the two are one generator. On a card, reading a number back would wait for all updates queued before it.
    """

    def __init__(self, device: str | torch.device, seed: int) -> None:
        self.device = torch.Generator(device).manual_seed(seed)
        self.host = self.device if self.device.device.type == "cpu" else torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Tensor]:
        generators = {"generator": self.device} if self.host is self.device else vars(self)
        return {name: generator.get_state() for name, generator in generators.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state_dict` was taken; after a change between CPU and card with numbers of its own.

        The kinds' generators can't continue one another. A new seed is drawn from the old host generator, so that no
        number comes twice.
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
