"""`sorl-import`: converts a checkpoint of the released SORL code (a pickle from JAX and Flax) to a policy file.

The release writes params_N.pkl, a pickle of {"agent": flax.serialization.to_state_dict(agent)}. `array_pickle` reads it
without JAX or Flax, and without running anything in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from sorl_client.episodes import control_hz

from kernels.commands import command
from policy import Budget, CheckpointError, Policy, PolicySpec, Provenance
from training.arguments import parse_arguments
from training.config import TrainConfig, parse_observation_keys
from training.data import ActionBounds
from training.files import require_file, sha256_of
from training.ranges import CANDIDATES, FINITE, POSITIVE, STEPS, PowerOfTwo, Range, require_ranges
from training.release.array_pickle import Leaf, read_array_pickle
from training.release.card import summary
from training.release.readback import save_and_read_back
from training.release.released import ACTOR, CRITIC, ReleasedTreeError, hidden_sizes, input_size, module_state
from training.tasks import UnknownTask, make_task

PARAMS = "agent/network/params/"
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class ImportConfig:
    """Convert a checkpoint of the released SORL code, params_N.pkl, to a policy file that can be served.

    The file is read without JAX, and nothing in it is run. The online actor and critic are imported. Target networks,
    optimiser state and random key are ignored. Network sizes, observation and action dimensions and the ensemble's size
    come from the weights. What the file does not say comes from --env; the other options override it.
    """

    checkpoint: tyro.conf.Positional[Path]
    """The pickle to read, params_N.pkl. Visual agents (with encoders) are refused."""
    env: str
    """The training environment, as given to the release's --env_name, e.g. cube-single-play-singletask-task2-v0."""
    out: Path | None = None
    """The file to write. Default: beside the pickle, with the suffix .safetensors."""
    name: str | None = None
    """Name under which the service offers the policy. Default: the first two words of --env."""
    q_agg: Literal["mean", "min"] | None = None
    """Aggregation over the critic ensemble. Default: the paper's choice for the environment."""
    discount: Annotated[float, Range(0, 1, below=True)] | None = None
    """Gamma of its training, for the provenance. Default: the paper's value for the environment."""
    denoise_timesteps: Annotated[int, PowerOfTwo(4096)] = 8
    """M_disc, the number of steps of the flow's finest grid; the release's default is 8."""
    max_backprop_steps: Annotated[int, PowerOfTwo(4096)] = 8
    """M_BTT, the release's max_k_backprop: the largest number of steps its critic saw; the release's default is 8."""
    control_hz: Annotated[float, POSITIVE] | None = None
    """Actions per second. Default: OGBench's rate for the environment. If given, --env may be unknown to OGBench; its
    dimensions are then not checked."""
    action_low: tuple[Annotated[float, FINITE], ...] = (-1.0,)
    """The action -1 in environment units: one number, or one per dimension. The release does not rescale."""
    action_high: tuple[Annotated[float, FINITE], ...] = (1.0,)
    """The action 1 in environment units: one number, or one per dimension."""
    default_budget: tuple[Annotated[int, CANDIDATES], Annotated[int, STEPS]] | None = None
    """N and M of a request that names neither. Default: 32 and 4, or fewer steps if the finest grid has fewer."""
    observation_keys: str | None = None
    """Names and sizes of the observation's parts in their order, e.g. joint_pos=7,gripper=1: robots may then send parts
    by name. Default: none, and they send one vector."""
    notes: str = ""
    """Notes on the card."""

    def __post_init__(self) -> None:
        require_ranges(self)
        parse_observation_keys(self.observation_keys)


def import_released(config: ImportConfig) -> Policy:
    """Convert the checkpoint and write the policy file. Returns the policy as read back from it.

    Raises:
        OutputError: `out` cannot be written.
        ArrayPickleError: the pickle is damaged, or holds more than nested arrays; see `read_array_pickle`.
        ReleasedTreeError: the tree is not that of a SORL agent on vector observations, or a weight has the wrong shape
            or is not finite float32; the message names the entry.
        ValueError: the dimensions are not those of --env, OGBench does not know --env and --control-hz is not given, or
            an option is out of range.
    """
    out = config.out or config.checkpoint.with_suffix(".safetensors")
    require_file("--out", out)
    entries = read_array_pickle(config.checkpoint)
    try:
        actor, critic = _network(entries, ACTOR), _network(entries, CRITIC)
        spec = _spec(config, actor, critic)
        spec = replace(spec, provenance=_provenance(config, spec, entries))
        with torch.device("meta"):
            policy = Policy(spec)
        for module, network, state in ((ACTOR, policy.actor, actor), (CRITIC, policy.critic, critic)):
            _require_shapes(module, network.state_dict(), state)
            network.load_state_dict(state, assign=True)
    except ReleasedTreeError as error:
        raise ReleasedTreeError(f"{config.checkpoint}: {error}") from None
    # The release neither normalises observations nor keeps their statistics.
    policy.observation_mean, policy.observation_std = torch.zeros(spec.obs_dim), torch.ones(spec.obs_dim)
    return save_and_read_back(policy, out)


def _network(entries: Mapping[str, Leaf], module: str) -> State:
    """One network as a state dict of this project; checks names, dtype, number of axes and finiteness."""
    tree = {}
    for path, value in entries.items():
        name = path.removeprefix(PARAMS)
        if not path.startswith(f"{PARAMS}{module}/"):
            continue
        if "encoder" in name:
            raise ReleasedTreeError(f"{name}: the agent encodes images, and policies here take vector observations")
        if not isinstance(value, np.ndarray) or value.dtype != np.float32:
            found = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
            raise ReleasedTreeError(f"{name}: expected a float32 array, found {found}")
        axes = (2 if name.endswith("/kernel") else 1) + (module == CRITIC)
        if value.ndim != axes:
            raise ReleasedTreeError(f"{name}: expected {axes} axes, found shape {value.shape}")
        if not np.isfinite(value).all():
            raise ReleasedTreeError(f"{name}: has NaN or infinite values")
        tree[name] = torch.from_numpy(value)
    return module_state(tree, module)


def _spec(config: ImportConfig, actor: State, critic: State) -> PolicySpec:
    """The specification: dimensions from the weights, the rest from the environment and the options."""
    try:
        actor_hidden, critic_hidden = hidden_sizes(actor), hidden_sizes(critic)
        action_dim = len(actor[f"layers.{len(actor_hidden)}.bias"])
        obs_dim = input_size(actor) - action_dim - 2  # columns: observation, action, t, d
        critic_columns = input_size(critic)
    except KeyError as missing:
        raise ReleasedTreeError(f"a layer is missing: {_released_name(missing.args[0])}") from None
    if obs_dim < 1:
        raise ReleasedTreeError(f"{ACTOR}: its first layer has {input_size(actor)} columns for {action_dim} actions")
    if critic_columns not in (obs_dim + action_dim, obs_dim + action_dim + 1):
        raise ReleasedTreeError(
            f"{CRITIC}: its first layer has {critic_columns} columns, expected {obs_dim} + {action_dim} of observation "
            f"and action (as in {ACTOR}), plus 1 if it sees the number of steps"
        )
    published = TrainConfig(task=config.env, q_agg=config.q_agg).resolved()
    bounds = ActionBounds.of(config.action_low, config.action_high, action_dim)
    return PolicySpec(
        name=config.name or "-".join(config.env.split("-")[:2]),
        obs_dim=obs_dim,
        action_dim=action_dim,
        action_low=bounds.low,
        action_high=bounds.high,
        actor_hidden=actor_hidden,
        critic_hidden=critic_hidden,
        ensemble_size=len(critic["layers.0.bias"]),
        critic_layer_norm="norms.0.weight" in critic,
        q_agg=published.q_agg or "mean",
        critic_conditioning="steps" if critic_columns > obs_dim + action_dim else "none",
        denoise_timesteps=config.denoise_timesteps,
        max_backprop_steps=config.max_backprop_steps,
        control_hz=_control_hz(config, obs_dim, action_dim),
        default_budget=Budget(*(config.default_budget or (32, min(4, config.denoise_timesteps)))),
        observation_keys=parse_observation_keys(config.observation_keys),
    )


def _control_hz(config: ImportConfig, obs_dim: int, action_dim: int) -> float:
    """Actions per second. Checks on the way that the environment has the checkpoint's dimensions."""
    try:
        env = make_task(config.env)
    except UnknownTask as error:
        if config.control_hz is not None:
            return config.control_hz
        raise ValueError(f"--env: {error} (for another environment, pass --control-hz)") from None
    for what, space, found in (
        ("observations", env.observation_space, obs_dim),
        ("actions", env.action_space, action_dim),
    ):
        if space.shape != (found,):
            raise ValueError(f"{config.checkpoint} is for {found} {what}, and {config.env} has {space.shape}")
    return control_hz(env) if config.control_hz is None else config.control_hz


def _provenance(config: ImportConfig, spec: PolicySpec, entries: Mapping[str, Leaf]) -> Provenance:
    step = entries.get("agent/step")
    published = TrainConfig(task=config.env, discount=config.discount).resolved()
    return Provenance(
        environment=config.env,
        updates=int(step) if isinstance(step, np.ndarray | int) and np.size(step) == 1 else 0,
        config={
            "imported_from": config.checkpoint.name,
            "imported_sha256": sha256_of(config.checkpoint),
            "format": "released SORL code (Flax)",
            "env": config.env,
            "discount": published.discount,
            "q_agg": spec.q_agg,
        },
        notes=config.notes or f"imported from {config.checkpoint.name} of the released code; seed and data unknown",
    )


def _require_shapes(module: str, expected: State, found: State) -> None:
    for name in sorted(expected.keys() ^ found.keys()):
        what = "is missing" if name in expected else "does not belong in this network"
        raise ReleasedTreeError(f"{module}: {_released_name(name)} {what}")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise ReleasedTreeError(
                f"{module}: {_released_name(name)} does not fit its neighbours: its shape, as (..., out, in), is "
                f"{tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
            )


def _released_name(name: str) -> str:
    """The released name, e.g. Dense_0/kernel, of an entry of this project's state dict, e.g. layers.0.weight."""
    kind, index, leaf = name.split(".")
    if kind == "layers":
        return f"Dense_{index}/{'kernel' if leaf == 'weight' else leaf}"
    return f"LayerNorm_{index}/{'scale' if leaf == 'weight' else leaf}"


@command("sorl-import", CheckpointError, ValueError, OSError)
def main() -> None:
    """`sorl-import`."""
    config = parse_arguments(ImportConfig)
    policy = import_released(config)
    print(f"{config.out or config.checkpoint.with_suffix('.safetensors')}\n{summary(policy)}")
