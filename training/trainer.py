"""`Trainer`: what the updates of one run need, and its checkpoint, from which the run resumes exactly."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from policy import PolicySpec, Provenance, save_policy
from training import unmeasured
from training.batch import Batch
from training.config import TrainConfig, parse_observation_keys
from training.data import Dataset
from training.files import atomic_path
from training.learner import Learner, RandomStream
from training.losses import Info
from training.next_actions import load_or_draw
from training.prefixes import with_prefixes
from training.revision import code_revision
from training.start_from import start_from


class ResumeError(ValueError):
    """The run folder belongs to a run with other settings."""


class Trainer:
    """A learner with its data and its random stream: what one run's updates need, and its checkpoint."""

    def __init__(self, config: TrainConfig, dataset: Dataset) -> None:
        self.config = config
        self.dataset = dataset
        torch.manual_seed(config.seed)  # initial weights
        bounds = return_bounds(config, dataset) if config.clip_targets else (-math.inf, math.inf)
        self.learner = Learner(make_spec(config, dataset), config, bounds)
        policy = self.learner.policy
        policy.observation_mean[: dataset.obs_dim] = torch.from_numpy(dataset.observation_mean)
        policy.observation_std[: dataset.obs_dim] = torch.from_numpy(dataset.observation_std)
        self.start = (
            None if config.start_from is None else start_from(self.learner, config.start_from, config.new_critics)
        )
        self.random = RandomStream(config.device, config.seed)
        self.done = 0
        self.saved: int | None = None  # the update of resume.pt
        self.batch: Batch | None = None  # of the last update
        self.next_actions: torch.Tensor | None = None  # (T, n, chunk_dim), of all TD targets, drawn ahead

    def update(self) -> Info:
        """Draw a batch and the update's randomness from the run's stream, and learn from them."""
        index = self.dataset.train.draw(self.config.batch_size, self.random.device)
        self.batch = batch = self._seen(self.dataset.train.at(index), self.random.device)
        left = (self.config.updates - self.done) / max(self.config.anneal_updates, 1)
        self.learner.set_learning_rate(self.config.learning_rate * min(1.0, left))
        next_actions = None if self.next_actions is None else self.next_actions[index].transpose(0, 1).flatten(0, 1)
        info = self.learner.update(batch, self.learner.draw(self.random), next_actions)
        self.done += 1
        return info

    def draw_ahead(self) -> None:
        """Have the candidates of all TD targets: those in the file `next_actions`, or new ones, which are saved there.

        Raises:
            NextActionsError: the file holds others, e.g. of another actor; the message names what differs.
        """
        config, data = self.config, self.dataset.train
        assert config.next_actions is not None
        assert config.backup_steps is not None
        assert self.start is not None
        candidates, steps = config.backup_candidates, config.backup_steps
        origin = {
            "actor_from": self.start.version,
            "dataset_sha256": self.dataset.sha256,
            "backup_candidates": str(candidates),
            "backup_steps": str(steps),
            "seed": str(config.seed),
        }
        noise = torch.Generator().manual_seed(config.seed)

        def sample(index: torch.Tensor) -> torch.Tensor:
            observations = self._seen(data.at(index), torch.Generator()).next_observations
            shape = (candidates * len(index), self.learner.policy.spec.chunk_dim)
            with torch.no_grad(), self.learner.compute.autocast():
                found = self.learner.sample_next_actions(observations, torch.randn(shape, generator=noise), steps)
            return found.float().view(candidates, len(index), -1).transpose(0, 1)

        self.next_actions = load_or_draw(config.next_actions, origin, len(data), sample)

    def _seen(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch as the networks see it."""
        if self.config.prefix_max > 0:
            batch = with_prefixes(batch, self.learner.policy.spec, generator)
        if self.config.normaliser == "standardise":
            standardise = self.learner.policy.standardise
            batch = batch._replace(
                observations=standardise(batch.observations), next_observations=standardise(batch.next_observations)
            )
        return batch

    def save(self) -> None:
        """Write resume.pt, then policy.safetensors, each atomically."""
        assert self.config.run_dir is not None
        state = {
            "stream": self.config.identity(),
            "dataset_sha256": self.dataset.sha256,
            "start": "" if self.start is None else self.start.version,
            "done": self.done,
            "random": self.random.state_dict(),
            "learner": self.learner.state_dict(),
        }
        with atomic_path(self.config.run_dir / "resume.pt") as temporary:
            torch.save(state, temporary)
        self.save_policy(self.config.run_dir / "policy.safetensors")
        self.saved = self.done

    def save_policy(self, path: Path) -> None:
        """Write the policy as it is now, with its provenance, to `path`."""
        policy = self.learner.policy
        config, before = self.config.provenance(), 0
        if self.start is not None:
            before = self.start.spec.provenance.updates
            config["start_from"] = {"version": self.start.version, "updates": before}
        provenance = Provenance(
            environment=self.config.task,
            dataset_sha256=self.dataset.sha256,
            updates=before + self.done,
            seed=self.config.seed,
            code_revision=code_revision(),
            config=config,
        )
        policy.spec = replace(policy.spec, provenance=provenance)
        save_policy(policy, path)

    def resume(self) -> bool:
        """Load resume.pt if the run folder has one. Returns whether it did.

        Raises:
            ResumeError: it was written with other settings or other data; the message names them.
        """
        assert self.config.run_dir is not None
        path = self.config.run_dir / "resume.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.config.device, weights_only=True)
        # A setting that the file does not have yet had the effect of its default.
        ours, theirs = self.config.identity(), TrainConfig().identity() | state["stream"]
        differing = [f"{key} (there {theirs[key]!r}, here {ours[key]!r})" for key in ours if theirs[key] != ours[key]]
        if state["dataset_sha256"] != self.dataset.sha256:
            differing.append("the dataset")
        if state.get("start", "") != ("" if self.start is None else self.start.version):
            differing.append("the policy to start from")
        if differing:
            raise ResumeError(
                f"{path} was written with other settings: {', '.join(differing)}; choose another --run-dir"
            )
        self.learner.load_state_dict(state["learner"])
        self.random.load_state_dict(state.get("random", state))  # older files have it at the top level
        self.done = self.saved = state["done"]
        return True


def return_bounds(config: TrainConfig, dataset: Dataset) -> tuple[float, float]:
    """The range of discounted returns that the data's rewards allow, over an infinite horizon; it includes 0.

    Rewards of windows are sums over h steps, and one window follows the other.
    """
    rewards, horizon = dataset.train.rewards, 1 / (1 - (config.discount or 0.0) ** config.action_horizon)
    return min(float(rewards.min()) * horizon, 0.0), max(float(rewards.max()) * horizon, 0.0)


def make_spec(config: TrainConfig, dataset: Dataset) -> PolicySpec:
    """The specification of the policy that `config` trains on `dataset`."""
    return PolicySpec(
        name=unmeasured.name_of(config.task),
        obs_dim=dataset.obs_dim,
        action_dim=dataset.action_dim,
        action_low=dataset.action_bounds.low,
        action_high=dataset.action_bounds.high,
        actor_hidden=tuple(config.hidden),
        critic_hidden=tuple(config.critic_hidden or config.hidden),
        ensemble_size=config.ensemble_size,
        q_agg=config.q_agg or "mean",
        critic_conditioning=config.critic_conditioning,
        denoise_timesteps=config.denoise_timesteps,
        max_backprop_steps=config.max_backprop_steps,
        control_hz=dataset.control_hz,
        normaliser=config.normaliser,
        default_budget=unmeasured.budget_of(config.denoise_timesteps),
        observation_keys=parse_observation_keys(config.observation_keys),
        action_horizon=config.action_horizon,
        prefix_max=config.prefix_max,
    )
