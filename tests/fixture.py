"""The parity fixture: figures made by running the released JAX code, in its own tree names (docs/algorithm.md)."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from policy import CriticEnsemble, VelocityField
from training.losses import Batch

PATH = Path(__file__).parent / "fixtures" / "sorl_reference_small.safetensors"


class Fixture:
    """Tensors by name, settings by key, and the released tree as modules of ours."""

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        with safe_open(PATH, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)

    @cached_property
    def settings(self) -> dict[str, Any]:
        with safe_open(PATH, framework="pt") as file:
            return {key: json.loads(value) for key, value in file.metadata().items()}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def scalar(self, name: str) -> float:
        return float(self.tensors[name].item())

    def batch(self, prefix: str = "batch") -> Batch:
        return Batch(*(self[f"{prefix}/{name}"] for name in Batch._fields))

    def actor(self, prefix: str = "params/modules_actor") -> VelocityField:
        s = self.settings
        actor = VelocityField(s["obs_dim"], s["action_dim"], (s["hidden"],) * s["layers"])
        actor.load_state_dict(self.actor_tree(prefix))
        return actor

    def critic(self, prefix: str = "params/modules_critic") -> CriticEnsemble:
        s = self.settings
        critic = CriticEnsemble(s["obs_dim"], s["action_dim"], (s["hidden"],) * s["layers"], ensemble_size=2)
        critic.load_state_dict(self.critic_tree(prefix))
        return critic

    def actor_tree(self, prefix: str) -> dict[str, Tensor]:
        """The tree at `prefix` (parameters or gradients) under our names and axis order."""
        tree = {}
        for layer in range(self.settings["layers"] + 1):
            tree[f"layers.{layer}.weight"] = self[f"{prefix}/mlp/Dense_{layer}/kernel"].T.contiguous()
            tree[f"layers.{layer}.bias"] = self[f"{prefix}/mlp/Dense_{layer}/bias"]
        return tree

    def critic_tree(self, prefix: str) -> dict[str, Tensor]:
        tree = {}
        for layer in range(self.settings["layers"] + 1):
            tree[f"layers.{layer}.weight"] = self[f"{prefix}/value_net/Dense_{layer}/kernel"].mT.contiguous()
            tree[f"layers.{layer}.bias"] = self[f"{prefix}/value_net/Dense_{layer}/bias"]
        for layer in range(self.settings["layers"]):
            tree[f"norms.{layer}.weight"] = self[f"{prefix}/value_net/LayerNorm_{layer}/scale"]
            tree[f"norms.{layer}.bias"] = self[f"{prefix}/value_net/LayerNorm_{layer}/bias"]
        return tree


def relative_error(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|, in float64."""
    difference = (found.detach().double() - expected.detach().double()).norm()
    return float(difference / expected.detach().double().norm().clamp_min(1e-12))


def worst_gradient_error(module: nn.Module, expected: dict[str, Tensor]) -> float:
    """The largest relative error over a module's gradients, tensor by tensor."""
    return max(relative_error(p.grad, expected[name]) for name, p in module.named_parameters() if p.grad is not None)
