"""`ParityFile`: figures of the released code, and its networks as modules of `policy` (format: docs/algorithm.md)."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from policy import Budget, CriticEnsemble, Policy, PolicySpec, VelocityField
from training.batch import Batch
from training.config import TrainConfig
from training.release import released

_Network = TypeVar("_Network", bound=nn.Module)


class ParityFileError(ValueError):
    """Not a parity file, or something is missing from it; the message says what."""


class ParityFile:
    """A parity file's settings and tensors, and its networks as modules of `policy`.

    Every method raises ParityFileError if something that it needs is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, framework="pt") as file:
                self.tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                self.settings: dict[str, Any] = {k: json.loads(v) for k, v in (file.metadata() or {}).items()}
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            raise ParityFileError(f"{path}: {error}") from None

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ParityFileError(f"{self.path}: tensor {name} is missing")
        return self.tensors[name]

    def setting(self, name: str) -> Any:
        """A setting of the released code, by its name there."""
        if name not in self.settings:
            raise ParityFileError(f"{self.path}: setting {name} is missing")
        return self.settings[name]

    def scalar(self, name: str) -> float:
        """A tensor of one element as a number."""
        return float(self[name].item())

    def column(self, name: str) -> Tensor:
        """A tensor (B,) as (B, 1)."""
        return self[name][:, None]

    def batch(self, prefix: str = "batch") -> Batch:
        """The batch below `prefix`."""
        return Batch(*(self[f"{prefix}/{name}"] for name in Batch._fields))

    def state(self, module: str, prefix: str = "params") -> dict[str, Tensor]:
        """One network's parameters or gradients below `prefix`, as a state dict of `policy`."""
        tree = {n.removeprefix(f"{prefix}/"): t for n, t in self.tensors.items() if n.startswith(f"{prefix}/")}
        try:
            state = released.module_state(tree, module)
        except released.ReleasedTreeError as error:
            raise ParityFileError(f"{self.path}: {prefix}: {error}") from None
        if prefix != "params" and (missing := sorted(self.state(module).keys() - state.keys())):
            raise ParityFileError(f"{self.path}: {prefix}/{module} lacks the entry for {missing[0]}")
        return state

    def actor(self, module: str = released.ACTOR) -> VelocityField:
        """A new actor with the file's parameters; `module` is ACTOR or TARGET_ACTOR."""
        return self._loaded(Policy(self.spec).actor, module)

    def critic(self, module: str = released.CRITIC) -> CriticEnsemble:
        """A new critic ensemble with the file's parameters; `module` is CRITIC or TARGET_CRITIC."""
        return self._loaded(Policy(self.spec).critic, module)

    def _loaded(self, network: _Network, module: str) -> _Network:
        try:
            network.load_state_dict(self.state(module))
        except RuntimeError as error:
            raise ParityFileError(f"{self.path}: params/{module}: {error}") from None
        return network

    @cached_property
    def spec(self) -> PolicySpec:
        """The specification of the file's networks, read from their shapes."""
        actor, critic = self.state(released.ACTOR), self.state(released.CRITIC)
        obs_dim, action_dim = self.setting("obs_dim"), self.setting("action_dim")
        conditioned = released.input_size(critic) - obs_dim - action_dim
        if conditioned not in (0, 1):
            raise ParityFileError(f"{self.path}: the critic has {conditioned} columns beyond observation and action")
        return PolicySpec(
            name="parity",
            obs_dim=obs_dim,
            action_dim=action_dim,
            action_low=(-1.0,) * action_dim,
            action_high=(1.0,) * action_dim,
            actor_hidden=released.hidden_sizes(actor),
            critic_hidden=released.hidden_sizes(critic),
            ensemble_size=len(critic["layers.0.bias"]),
            q_agg=self.setting("q_agg"),
            critic_conditioning="steps" if conditioned else "none",
            critic_layer_norm=any(name.startswith("norms.") for name in critic),
            denoise_timesteps=self.setting("denoise_timesteps"),
            max_backprop_steps=max(self.setting("k_values")),
            control_hz=1.0,
            default_budget=Budget(1, 1),
        )

    def config(self, preset: Literal["paper", "reference"]) -> TrainConfig:
        """The file's settings as a training configuration."""
        return TrainConfig(
            preset=preset,
            hidden=self.spec.actor_hidden,
            batch_size=len(self["batch/rewards"]),
            learning_rate=self.setting("lr"),
            max_grad_norm=self.setting("grad_clip_norm"),
            tau=self.setting("tau"),
            discount=self.setting("discount"),
            q_agg=self.setting("q_agg"),
            q_loss_coef=self.setting("q_loss_coef"),
            normalise_q_loss=self.setting("normalize_q_loss"),
            t_epsilon=self.setting("t_epsilon"),
            flow_coef=self.setting("bc_flow_loss_coef"),
            consistency_coef=self.setting("alpha"),
            ensemble_size=self.spec.ensemble_size,
            critic_conditioning=self.spec.critic_conditioning,
            denoise_timesteps=self.spec.denoise_timesteps,
            max_backprop_steps=self.spec.max_backprop_steps,
        ).resolved()
