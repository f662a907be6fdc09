"""The files of a run's folder, beside those of `sorl-train` and `sorl-evaluate`:

run.json       the run, written by the sweep
running.json   phase, host and process, while it runs
log.txt        output of the process, all attempts
result.json    the result, written last and atomically
error.json     why the latest attempt failed
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from training.config import TrainConfig
from training.files import read_json, sha256_of, write_json
from training.logs import last_metrics
from training.sweep.errors import SweepError
from training.sweep.plan import Evaluation, Run
from training.sweep.settings import convert

WAITING = "waiting"
dataset_sha256 = cache(sha256_of)  # each dataset is hashed once, not once per run


def write_request(run: Run) -> None:
    """Write run.json, and remove the states of earlier attempts."""
    for name in ("running.json", "error.json"):
        (run.folder / name).unlink(missing_ok=True)
    varied = {name: run.config.as_json()[name] for name in run.varied}
    evaluations = [asdict(evaluation) for evaluation in run.evaluations]
    request = {"task": run.task, "setting": run.setting, "varied": varied, "config": run.config.as_json()}
    write_json(run.folder / "run.json", {**request, "evaluations": evaluations})


def read_request(folder: Path) -> Run:
    """The run that `write_request` wrote."""
    request = json.loads((folder / "run.json").read_text())
    return Run(
        task=request["task"],
        setting=request["setting"],
        varied=convert(TrainConfig, "run.json", request["varied"]),
        config=TrainConfig(**convert(TrainConfig, "run.json", request["config"])),
        evaluations=tuple(Evaluation(**convert(Evaluation, "run.json", item)) for item in request["evaluations"]),
    )


def read_result(run: Run) -> dict[str, Any] | None:
    """result.json if it has this run's settings, cells and data; otherwise None."""
    result: dict[str, Any] | None = read_json(run.folder / "result.json")
    if result is None or result.get("digest") != run.digest():
        return None
    return result if result.get("dataset_sha256") == dataset_sha256(run.dataset) else None


def describe_state(run: Run) -> str:
    """The state of a run in one line. Updates are read from metrics.csv, so they lag by up to `log_every`."""
    running = read_json(run.folder / "running.json")
    if running is None:
        return WAITING
    if running["phase"] != "training":
        return f"{running['phase']} on {running['host']}"
    row = last_metrics(run.folder)
    done, rate = (int(row["update"]), float(row["updates_per_second"])) if row else (0, 0.0)
    return f"training on {running['host']}: {done:,} of {run.config.updates:,} updates, {rate:.1f} updates/s"


@contextmanager
def locked(path: Path, wait: bool) -> Iterator[None]:
    """Hold a lock on the file `path`. The system releases it when the process ends, however it ends.

    Raises:
        SweepError: `wait` is false and another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise SweepError(f"{path.parent}: another process is at work here") from None
        yield
