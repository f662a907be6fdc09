"""`sorl-train`: the training loop, with logs, exact resumption and a policy that can be served at any time.

A run folder holds config.json, metrics.csv, tensorboard/, resume.pt (the learner's whole state) and policy.safetensors,
and policy-UPDATES.safetensors for every `keep_every` updates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from tqdm import tqdm

from kernels.backend import BackendUnavailable
from kernels.commands import command
from kernels.threads import limit_torch_threads
from policy import CheckpointError
from training.arguments import parse_arguments
from training.config import TrainConfig
from training.data import StatedUnits, load_dataset
from training.files import require_file, require_folder, write_json
from training.logs import RunLog
from training.signals import stop_requests
from training.trainer import Trainer


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived, and the run has been saved."""


CHECK_EVERY = 100
"""Updates between checks for finite losses on a card, where reading a number waits for all that is queued. On a CPU
every update is checked."""


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
