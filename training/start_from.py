"""`start_from`: a run's networks from a policy file (`sorl-train --start-from`)."""

from __future__ import annotations

from pathlib import Path

import torch

from policy import Policy, load_policy
from training.learner import Learner


class StartError(ValueError):
    """The policy to start from has other networks or data statistics than this run."""


# Properties of a policy that its networks' weights depend on.
_OF_THE_ACTOR = (
    "obs_dim",
    "action_dim",
    "action_horizon",
    "prefix_max",
    "action_low",
    "action_high",
    "actor_hidden",
    "denoise_timesteps",
    "normaliser",
)
_OF_THE_CRITICS = ("critic_hidden", "ensemble_size", "critic_conditioning", "critic_layer_norm")


def start_from(learner: Learner, path: Path, new_critics: bool = False) -> Policy:
    """Load a policy file's networks into `learner`, online and target networks alike. Returns the file's policy.

    Args:
        new_critics: load the actor only.

    Raises:
        CheckpointError: `path` is not a policy file.
        StartError: a property that the weights depend on differs; the message names it.
    """
    start = load_policy(path)
    ours, theirs = learner.policy.spec, start.spec
    for name in _OF_THE_ACTOR if new_critics else _OF_THE_ACTOR + _OF_THE_CRITICS:
        if getattr(ours, name) != getattr(theirs, name):
            found, expected = getattr(theirs, name), getattr(ours, name)
            raise StartError(f"start_from: {path}: expected {name} {expected}, as in this run, found {found}")
    statistics = ("observation_mean", "observation_std")
    if theirs.normaliser != "identity" and not all(
        torch.equal(getattr(start, name), getattr(learner.policy, name).cpu()) for name in statistics
    ):
        raise StartError(f"start_from: {path}: its observation statistics are not those of this run's data")
    for network in (learner.policy.actor, learner.target_actor):
        network.load_state_dict(start.actor.state_dict())
    if not new_critics:
        for critics in (learner.policy.critic, learner.target_critic):
            critics.load_state_dict(start.critic.state_dict())
    return start
