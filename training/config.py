"""`TrainConfig`: every setting of a training run. A field's text is its command-line help."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from policy import ObservationKey
from training.ranges import (
    FINITE,
    MOST,
    MOST_WORKERS,
    NOT_NEGATIVE,
    POSITIVE,
    TRAINING_SEED,
    OneOrMore,
    PowerOfTwo,
    Range,
    flag,
    require_ranges,
)

# gamma, q_agg and q_loss_coef by environment (docs/algorithm.md). The paper has no setting for pointmaze, cube-triple
# and the puzzles.
TASK_DEFAULTS: dict[str, dict[str, Any]] = {
    "antmaze-large": {"discount": 0.99, "q_agg": "min", "q_loss_coef": 500.0},
    "antmaze-giant": {"discount": 0.995, "q_agg": "min", "q_loss_coef": 500.0},
    "humanoidmaze-medium": {"discount": 0.995, "q_agg": "mean", "q_loss_coef": 100.0},
    "humanoidmaze-large": {"discount": 0.995, "q_agg": "mean", "q_loss_coef": 500.0},
    "antsoccer-arena": {"discount": 0.995, "q_agg": "mean", "q_loss_coef": 500.0},
    "cube-single": {"discount": 0.99, "q_agg": "mean", "q_loss_coef": 10.0},
    "cube-double": {"discount": 0.99, "q_agg": "mean", "q_loss_coef": 50.0},
    "scene": {"discount": 0.99, "q_agg": "mean", "q_loss_coef": 100.0},
    "pointmaze-medium": {"discount": 0.995, "q_agg": "mean", "q_loss_coef": 10.0},
}

# Settings that say where a run happened and what it wrote. They do not change what is learned.
OPERATIONAL = frozenset({"run_dir", "dataset", "device", "compute", "threads", "log_every", "save_every", "keep_every"})

# The places where the released code departs from the paper.
REFERENCE_SWITCHES = ("leak_td_gradient", "shared_optimizer", "lagged_targets")


@dataclass(frozen=True)
class TrainConfig:
    """Train a shortcut policy and its Q ensemble on offline data (resumable: run the same command again)."""

    task: str = "cube-single-play-singletask-task2-v0"
    """OGBench single-task name, e.g. cube-single-play-singletask-task2-v0. With HDF5 or Minari data, any name."""
    dataset: Path | None = None
    """NAME.npz (OGBench's layout, NAME-val.npz beside it), NAME.hdf5 (D4RL's layout) or minari:NAME; see docs/data.md.
    Default: the file that `sorl-generate` writes into data/."""
    control_hz: Annotated[float, POSITIVE] | None = None
    """Actions per second, stored in the policy. Default: OGBench's rate for npz data, 20 for other data."""
    action_low: tuple[Annotated[float, FINITE], ...] | None = None
    """Lower bound of actions in the data's units: one number, or one per dimension. HDF5 and Minari data are rescaled
    from these bounds to [-1, 1]. Default: the bounds that the data states, otherwise -1."""
    action_high: tuple[Annotated[float, FINITE], ...] | None = None
    """Upper bound of actions, in the same form. Give both or neither."""
    observation_keys: str | None = None
    """Names and sizes of the observation's parts in the data's order, e.g. joint_pos=7,gripper=1, stored in the policy:
    robots may then send parts by name. Default: none, and they send one vector."""
    run_dir: Path | None = None
    """Folder of logs and checkpoints. Default: runs/TASK-SEED."""
    start_from: Path | None = None
    """Policy file whose networks this run starts from. Target networks are copies of them; optimisers start anew. The
    policies of this run name the file and count its updates too."""
    freeze_actor: bool = False
    """Train the critics only, and keep the actor of --start-from as it is. With --q-loss-coef 0 an actor only imitates
    the data, and does for every task of it."""
    freeze_critics: bool = False
    """Train the actor only: with --q-loss-coef 0 it needs no critics. Those of --start-from are kept as they are;
    without it they stay as they began, to be replaced with --new-critics."""
    new_critics: bool = False
    """Train new critics, and not those of --start-from: they may have been trained for another task."""
    updates: Annotated[int, Range(1, MOST)] = 1_000_000
    """Gradient updates. Raise it to continue a finished run."""
    seed: Annotated[int, TRAINING_SEED] = 0
    """Seed of initial weights, batches and noise."""

    action_horizon: Annotated[int, Range(1, 64)] = 1
    """Number h of consecutive actions that the policy proposes at once, a chunk. Above 1 it learns from windows of h
    actions, and TD targets reach h steps ahead."""
    prefix_max: Annotated[int, Range(0, 63)] = 0
    """Largest number of a chunk's first actions that the networks take as an input, for robots that execute them while
    the chunk is computed (arXiv 2512.05964). Half of a batch's rows get the first 1 to this many of their own chunk. At
    most --action-horizon minus 1."""
    hidden: Annotated[tuple[Annotated[int, Range(1, 2**16)], ...], OneOrMore()] = (512, 512, 512, 512)
    """Hidden widths of actor and critics."""
    critic_hidden: Annotated[tuple[Annotated[int, Range(1, 2**16)], ...], OneOrMore()] | None = None
    """Hidden widths of the critics, where they are not those of --hidden."""
    batch_size: Annotated[int, Range(1, 2**24)] = 256
    """Transitions per update."""
    learning_rate: Annotated[float, POSITIVE] = 1e-4
    """Adam's step size, for actor and critic."""
    anneal_updates: Annotated[int, Range(0, MOST)] = 0
    """Number of last updates over which the learning rate falls linearly to zero. 0 keeps it constant, as released."""
    max_grad_norm: Annotated[float, POSITIVE] = 1.0
    """Gradients are clipped to this global norm, actor and critic each."""
    tau: Annotated[float, Range(0, 1, above=True)] = 0.005
    """Rate of the target networks' moving average. Values propagate about one environment step per 1 / tau updates."""

    discount: Annotated[float, Range(0, 1, below=True)] | None = None
    """Gamma. Default: the paper's value for the environment, or 0.99."""
    q_agg: Literal["mean", "min"] | None = None
    """Aggregation over the critic ensemble. Default: the paper's choice for the environment, or mean."""
    q_loss_coef: Annotated[float, NOT_NEGATIVE] | None = None
    """Weight of the Q loss. Default: the paper's value for the environment, or 10."""
    clip_targets: bool = False
    """Clip TD targets to the range of returns that the data's rewards allow. Neither paper nor released code does."""
    backup_candidates: Annotated[int, Range(1, 1024)] = 1
    """Number n of actions sampled for a TD target, which takes the best of them by the target critics, as the service
    executes the best of N. 1: as in the paper."""
    backup_steps: Annotated[int, PowerOfTwo(4096)] | None = None
    """Number of steps of the actions sampled for TD targets, as the service will execute them. Needs
    --critic-conditioning none. Default: uniform over 1, 2, 4, ..., --max-backprop-steps, as in the paper."""
    next_actions: Path | None = None
    """File of the actions of all TD targets: the frozen actor samples --backup-candidates of them once for every next
    observation, and not anew at every update. Made if it is missing; runs for other tasks of the data may share it.
    Needs --freeze-actor and --backup-steps, on a CPU."""
    normalise_q_loss: bool = True
    """Divide the Q loss by the batch's mean |Q|, as released."""
    t_epsilon: Annotated[float, Range(0, 1, below=True)] = 1e-5
    """e, the fraction of the noise that is left at t = 1."""
    flow_coef: Annotated[float, NOT_NEGATIVE] = 10.0
    """Weight of the flow-matching loss."""
    consistency_coef: Annotated[float, NOT_NEGATIVE] = 10.0
    """Weight of the self-consistency loss."""

    preset: Literal["paper", "reference"] = "paper"
    """reference turns on the three switches below: the released code's whole update."""
    leak_td_gradient: bool = False
    """The TD error also trains the actor, through the next action. As released; not in the paper."""
    shared_optimizer: bool = False
    """One Adam and one gradient clip over actor and critic together, stepped once with each loss. As released."""
    lagged_targets: bool = False
    """The actor's loss and both target averages read the parameters from before the update. As released."""

    ensemble_size: Annotated[int, Range(1, 1024)] = 2
    """Number of critics."""
    critic_conditioning: Literal["steps", "none"] = "steps"
    """steps: critics also see the number of steps that made an action, as released. none: not, as in the paper."""
    denoise_timesteps: Annotated[int, PowerOfTwo(4096)] = 8
    """M_disc, the number of steps of the flow's finest grid."""
    max_backprop_steps: Annotated[int, PowerOfTwo(4096)] = 8
    """M_BTT, the largest number of steps that the Q loss is backpropagated through."""
    normaliser: Literal["identity", "standardise"] = "identity"
    """identity: networks see raw observations, as released. standardise: zero mean and unit variance over the data."""

    device: str = "cpu"
    """torch device, which also holds the data."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products in bfloat16 with fp32 master weights."""
    compute: Literal["auto", "native", "torch", "graphs"] = "auto"
    """Implementation of an update: torch's operators, the same captured as CUDA graphs, or on a CPU this package's
    native networks. auto: graphs on a CUDA card, native on a CPU where it was built."""
    threads: Annotated[int, Range(0, MOST_WORKERS)] = 0
    """CPU compute threads; 0 means all available cores."""
    log_every: Annotated[int, Range(1, MOST)] = 1000
    """Updates between log rows. Logged losses are means over the interval."""
    save_every: Annotated[int, Range(1, MOST)] = 10_000
    """Updates between checkpoints (resume.pt, policy.safetensors)."""
    keep_every: Annotated[int, Range(1, MOST)] = 50_000
    """Updates between policies kept for good (policy-UPDATES.safetensors)."""

    def __post_init__(self) -> None:
        require_ranges(self)
        parse_observation_keys(self.observation_keys)
        if self.max_backprop_steps > self.denoise_timesteps:
            raise ValueError(
                f"--max-backprop-steps must be at most --denoise-timesteps ({self.denoise_timesteps}), "
                f"got {self.max_backprop_steps}"
            )
        if self.backup_steps is not None and self.backup_steps > self.denoise_timesteps:
            raise ValueError(
                f"--backup-steps must be at most --denoise-timesteps ({self.denoise_timesteps}), "
                f"got {self.backup_steps}"
            )
        if self.backup_steps is not None and self.critic_conditioning == "steps":
            raise ValueError(
                "--backup-steps needs --critic-conditioning none: critics that see a number of steps must meet them all"
            )
        for name in ("freeze_actor", "new_critics"):
            if getattr(self, name) and self.start_from is None:
                raise ValueError(f"{flag(name)} needs --start-from, the policy file that the actor comes from")
        if self.next_actions is not None and not (
            self.freeze_actor and self.backup_steps is not None and self.device == "cpu"
        ):
            raise ValueError("--next-actions needs --freeze-actor and --backup-steps, and --device cpu")
        if self.freeze_actor and (self.preset == "reference" or self.leak_td_gradient or self.shared_optimizer):
            raise ValueError(
                "--freeze-actor excludes --leak-td-gradient, --shared-optimizer and --preset reference: "
                "with these the TD error's step is the actor's too"
            )
        if self.freeze_actor and self.freeze_critics:
            raise ValueError("--freeze-actor and --freeze-critics leave nothing to train: give one of them")
        if self.freeze_critics and self.start_from is None and self.q_loss_coef != 0:
            raise ValueError("--freeze-critics needs --q-loss-coef 0, or --start-from with critics for the Q loss")
        if self.freeze_critics and (
            self.preset == "reference" or any(getattr(self, name) for name in REFERENCE_SWITCHES)
        ):
            raise ValueError(
                "--freeze-critics excludes --leak-td-gradient, --shared-optimizer, --lagged-targets and --preset "
                "reference: with these an update is not the actor's alone"
            )
        if self.prefix_max >= self.action_horizon:
            raise ValueError(
                f"--prefix-max must be at most {self.action_horizon - 1} (--action-horizon minus 1), "
                f"got {self.prefix_max}"
            )

    def resolved(self) -> TrainConfig:
        """This config with defaults filled in for the task, and the preset's switches turned on."""
        environment = next((name for name in TASK_DEFAULTS if self.task.startswith(name)), None)
        defaults: dict[str, Any] = {"discount": 0.99, "q_agg": "mean", "q_loss_coef": 10.0}
        defaults.update(TASK_DEFAULTS.get(environment or "", {}))
        dataset_name = "-".join(part for part in self.task.split("-") if part != "singletask" and part[:4] != "task")
        defaults["dataset"] = Path("data") / f"{dataset_name}.npz"
        defaults["run_dir"] = Path("runs") / f"{self.task}-{self.seed}"
        switches: dict[str, Any] = dict.fromkeys(REFERENCE_SWITCHES, True) if self.preset == "reference" else {}
        opened = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return replace(self, **switches, **opened)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for logs and provenance."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}

    def provenance(self) -> dict[str, Any]:
        """Plain values for a policy file's provenance. Paths of the training machine are left out."""
        values = self.as_json()
        names = {name: path.name if (path := getattr(self, name)) else None for name in ("dataset", "next_actions")}
        return values | names | {"run_dir": None, "start_from": None}

    def identity(self) -> dict[str, Any]:
        """The settings that determine the sequence of updates. A resumed run must agree on them.

        `updates` and `anneal_updates` may differ: a run may be continued further, or brought to its end.
        """
        free = OPERATIONAL | {
            "preset",  # its switches are compared instead
            "updates",
            "anneal_updates",
            "start_from",  # the file's version is compared instead
            "next_actions",  # the file's own metadata is compared instead
            "control_hz",
            "observation_keys",
        }
        named = {
            field.name: list(value) if isinstance(value := getattr(self, field.name), tuple) else value
            for field in fields(self)
            if field.name not in free
        }
        return named | {"next_actions": "sampled anew" if self.next_actions is None else "sampled once"}


def parse_observation_keys(text: str | None) -> tuple[ObservationKey, ...]:
    """ "joint_pos=7,gripper=1" as parts, in that order; None is none of them. `PolicySpec` has further checks.

    Raises:
        ValueError: `text` is of another form; the message names the command's flag.
    """
    if text is None:
        return ()
    parts = [re.fullmatch(r"([^=,]+)=([0-9]{1,9})", part) for part in text.split(",")]
    if not all(parts):
        raise ValueError(
            f"--observation-keys must be NAME=SIZE,NAME=SIZE,..., e.g. joint_pos=7,gripper=1; got {text!r}"
        )
    return tuple(ObservationKey(part[1], int(part[2])) for part in parts if part)


def non_default_settings(config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings of a run that differ from the defaults for its task: name -> (here, default).

    `OPERATIONAL` settings, task and seed are left out.

    Args:
        config: a run's settings as its JSON has them; those that an older version did not know may be missing.
    """
    defaults = TrainConfig(task=config.get("task", "")).resolved().as_json()
    here = {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
    said = (name for name in defaults if name in here and name not in OPERATIONAL | {"task", "seed"})
    return {name: (here[name], defaults[name]) for name in said if here[name] != defaults[name]}
