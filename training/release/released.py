"""The released code's parameter trees as state dicts of `policy/networks.py`.

The release stores a dense layer as `Dense_i` with kernel (in, out) and bias, and a LayerNorm as `LayerNorm_i` with
scale and bias, below `modules_actor/mlp` and `modules_critic/value_net`. An ensemble has a leading axis. `networks.py`
stores weights as (out, in).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

ACTOR, CRITIC = "modules_actor", "modules_critic"
TARGET_ACTOR, TARGET_CRITIC = "modules_target_actor", "modules_target_critic"

_BODY = {ACTOR: "mlp", TARGET_ACTOR: "mlp", CRITIC: "value_net", TARGET_CRITIC: "value_net"}


class ReleasedTreeError(ValueError):
    """A tree is not that of a SORL network; the message names the entry."""


def module_state(tree: Mapping[str, Tensor], module: str) -> dict[str, Tensor]:
    """One network of a flat tree, parameters or gradients, as a state dict of `policy`.

    Args:
        tree: path -> tensor, e.g. "modules_actor/mlp/Dense_0/kernel". Entries of other modules are ignored.
        module: one of `ACTOR`, `CRITIC`, `TARGET_ACTOR`, `TARGET_CRITIC`.

    Raises:
        ReleasedTreeError: an entry has an unknown name, or the module is missing.
    """
    state = {}
    for name, tensor in tree.items():
        if not name.startswith(f"{module}/"):
            continue
        layer, ours = _layer(name, prefix=f"{module}/{_BODY[module]}/")
        state[layer] = tensor.mT.contiguous() if ours == "kernel" else tensor
    if not state:
        raise ReleasedTreeError(f"no entry below {module}/")
    return state


def _layer(name: str, prefix: str) -> tuple[str, str]:
    """("layers.0.weight", "kernel") for "<prefix>Dense_0/kernel"."""
    kinds = {"Dense": ("layers", {"kernel": "weight", "bias": "bias"})}
    kinds["LayerNorm"] = ("norms", {"scale": "weight", "bias": "bias"})
    kind, _, rest = name.removeprefix(prefix).partition("_")
    index, _, leaf = rest.partition("/")
    if not name.startswith(prefix) or kind not in kinds or not index.isdigit() or leaf not in kinds[kind][1]:
        raise ReleasedTreeError(f"{name}: expected {prefix}Dense_<i>/kernel|bias or LayerNorm_<i>/scale|bias")
    ours, leaves = kinds[kind]
    return f"{ours}.{index}.{leaves[leaf]}", leaf


def hidden_sizes(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Hidden widths of a network, from its state dict."""
    layers = sum(name.startswith("layers.") and name.endswith(".bias") for name in state)
    return tuple(int(state[f"layers.{index}.bias"].shape[-1]) for index in range(layers - 1))


def input_size(state: Mapping[str, Tensor]) -> int:
    """Number of columns of a network's input, from its state dict."""
    return int(torch.as_tensor(state["layers.0.weight"]).shape[-1])
