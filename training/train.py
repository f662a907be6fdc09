"""`sorl-train`: the training loop, with logs, exact resumption and a policy that can be served at any time.

A run folder holds config.json, metrics.csv, tensorboard/, resume.pt (the learner's whole state) and policy.safetensors,
and policy-UPDATES.safetensors for every `keep_every` updates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from kernels.backend import BackendUnavailable
from kernels.commands import command
from kernels.threads import limit_torch_threads
from policy import CheckpointError, Policy, PolicySpec, Provenance, load_policy, save_policy
from training import unmeasured
from training.arguments import parse_arguments
from training.batch import Batch
from training.config import TrainConfig, parse_observation_keys
from training.data import Dataset, StatedUnits, load_dataset
from training.files import atomic_path, require_file, require_folder, write_json
from training.learner import Learner, RandomStream
from training.logs import RunLog
from training.losses import Info
from training.next_actions import load_or_draw
from training.prefixes import with_prefixes
from training.revision import code_revision
from training.signals import stop_requests


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived, and the run has been saved."""


class ResumeError(ValueError):
    """The run folder belongs to a run with other settings."""


class StartError(ValueError):
    """The policy to start from has other networks or data statistics than this run."""


CHECK_EVERY = 100
"""Updates between checks for finite losses on a card, where reading a number waits for all that is queued. On a CPU
every update is checked."""


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


def train(config: TrainConfig) -> Path:
    """Train up to `config.updates`, continuing from the run folder. Returns the path of policy.safetensors.

    Raises:
        ValueError: torch has no such device here.
        OutputError: the run folder cannot be written; the data has not been read.
        DatasetError: the data cannot be trained on.
        ResumeError, StartError: the run folder or `start_from` does not fit these settings.
        BackendUnavailable: `compute` cannot run here.
        CheckpointError: `start_from` is not a policy file, or `observation_keys` do not fit the data.
        Interrupted: SIGINT or SIGTERM arrived; the run was saved.
        FloatingPointError: a loss or gradient became NaN or infinite. The last checkpoint was written before that.
    """
    config = config.resolved()
    assert config.run_dir is not None
    assert config.dataset is not None
    # "medium" selects oneDNN instead of MKL for fp32 products: 345 against 190 GFLOP/s on two AMD server cores, at a
    # relative error of 4e-7.
    torch.set_float32_matmul_precision("medium")
    require_device(config.device)
    require_folder("--run-dir", config.run_dir)
    if config.next_actions is not None and not config.next_actions.exists():
        require_file("--next-actions", config.next_actions)
    stated = StatedUnits(config.control_hz, config.action_low, config.action_high)
    windows = config.action_horizon, config.discount or 0.0
    trainer = Trainer(config, load_dataset(config.task, config.dataset, config.device, stated, *windows))
    limit_torch_threads(trainer.learner.compute.torch_threads)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    if trainer.resume():
        print(f"continuing {config.run_dir} from update {trainer.done:,}")
    if config.next_actions is not None:
        trainer.draw_ahead()
    write_json(config.run_dir / "config.json", config.as_json())
    log = RunLog(config.run_dir, trainer.done)
    try:
        _loop(trainer, log)
    finally:
        log.close()
    return config.run_dir / "policy.safetensors"


def _loop(trainer: Trainer, log: RunLog) -> None:
    config = trainer.config
    totals: dict[str, torch.Tensor] = {}
    check_all = torch.device(config.device).type == "cpu"
    shown = ("td_target_mean", "flow_loss", "consistency_loss", "critic_loss")
    since, started = 0, time.perf_counter()
    with (
        stop_requests() as stop,
        tqdm(total=config.updates, initial=trainer.done, unit="update", desc=config.task, smoothing=0.02) as bar,
    ):
        while trainer.done < config.updates:
            for name, value in trainer.update().items():
                totals[name] = totals[name] + value if name in totals else value.clone()
            since += 1
            bar.update()
            last = trainer.done == config.updates
            logs = trainer.done % config.log_every == 0 or last
            keeps = trainer.done % config.keep_every == 0
            saves = trainer.done % config.save_every == 0 or last or bool(stop)
            if check_all or logs or keeps or saves or trainer.done % CHECK_EVERY == 0:
                require_finite(trainer, totals)
            if logs:
                values = {name: float(total) / since for name, total in totals.items()}
                values["updates_per_second"] = since / (time.perf_counter() - started)
                log.write(trainer.done, values)
                first_two = [name for name in shown if name in values][:2]
                bar.set_postfix({name: f"{values[name]:.3f}" for name in first_two}, refresh=False)
                totals, since, started = {}, 0, time.perf_counter()
            if keeps:
                assert config.run_dir is not None
                trainer.save_policy(config.run_dir / f"policy-{trainer.done}.safetensors")
            if saves:
                trainer.save()
            if saves and stop:  # a signal that came since waits for the next update's save
                raise Interrupted("interrupted and saved: run the same command again to continue")


def require_finite(trainer: Trainer, totals: Mapping[str, torch.Tensor]) -> None:
    """Raise FloatingPointError if a sum of a loss or gradient norm over the last updates is NaN or infinite.

    The message says what was seen: the update, what is not finite, the ranges in the update's batch, and what is kept.
    """
    faulty = [f"{name} is {float(total)}" for name, total in totals.items() if not math.isfinite(total)]
    if not faulty:
        return
    assert trainer.batch is not None
    parts = {name: column for name, column in trainer.batch._asdict().items() if name != "masks"}
    ranges = ", ".join(f"{name} {float(part.min()):.4g} to {float(part.max()):.4g}" for name, part in parts.items())
    kept = "nothing had been saved" if trainer.saved is None else f"the checkpoint of update {trainer.saved:,} is kept"
    raise FloatingPointError(
        f"{', '.join(faulty)} at update {trainer.done:,}, whose batch had {ranges}; "
        f"lower --learning-rate or check the data; {kept}"
    )


def require_device(name: str) -> None:
    """Raise ValueError, naming the flag, if torch cannot use the device here."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from None


@command("sorl-train", BackendUnavailable, CheckpointError, FloatingPointError, ValueError, OSError)
def main() -> None:
    """`sorl-train`."""
    path = train(parse_arguments(TrainConfig))
    print(f"trained: {path} (serve it with `sorl-serve --model {path}`)")
