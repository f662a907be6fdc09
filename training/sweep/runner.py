"""`run_all`: gives unfinished runs to Ray, follows them, and returns the outcome of each."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tqdm import tqdm

from training.signals import stop_requests
from training.sweep.folder import WAITING, describe_state, read_result, write_request
from training.sweep.plan import Run
from training.sweep.task import ChildKilled, run_in_child

State = Literal["skipped", "finished", "failed", "interrupted"]
POLL_SECONDS = 1.0  # a signal is noticed within this time


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run in this start of the sweep."""

    state: State
    """ "skipped" means that it was already finished."""
    error: str = ""


@dataclass(frozen=True)
class Resources:
    """Resources per run, retries after a killed process, and seconds between status lines."""

    cpus_per_run: float = 1.0
    gpus_per_run: float = 0.0
    retries: int = 2
    status_every: float = 60.0


def run_all(ray: Any, runs: Sequence[Run], resources: Resources) -> dict[str, Outcome]:
    """Run everything to its end. At SIGINT or SIGTERM, running runs save first; a second signal leaves at once.

    Args:
        ray: the module, connected.
        runs: the plan; finished runs are skipped.
        resources: what each run gets.

    Returns:
        Run name -> outcome, for all of `runs` in their order.
    """
    outcomes = {run.name: Outcome("skipped") for run in runs if read_result(run)}
    pending = [run for run in runs if run.name not in outcomes]
    with stop_requests() as stop, tqdm(total=len(runs), initial=len(outcomes), unit="run", desc="sweep") as bar:
        submitted = _submit(ray, pending, resources)
        waiting, cancelled, next_status = list(submitted), False, time.monotonic() + resources.status_every
        while waiting and len(stop) < 2:
            if stop and not cancelled:
                _write(bar, "stopping: running trainings save first (once more to leave at once)")
                for reference in waiting:
                    ray.cancel(reference)
                cancelled = True
            ready, waiting = ray.wait(waiting, timeout=POLL_SECONDS)
            for reference in ready:
                run = submitted[reference]
                outcomes[run.name] = outcome = _outcome(ray, reference, run)
                bar.update(outcome.state == "finished")
                if outcome.state == "failed":
                    _write(bar, f"failed: {run.name}: {outcome.error}")
            if time.monotonic() >= next_status:
                next_status = time.monotonic() + resources.status_every
                _write_status(bar, [submitted[reference] for reference in waiting])
    return {run.name: outcomes.get(run.name, Outcome("interrupted")) for run in runs}


def _submit(ray: Any, runs: Sequence[Run], resources: Resources) -> dict[Any, Run]:
    task = ray.remote(run_in_child)
    submitted = {}
    for run in runs:
        write_request(run)
        options = task.options(
            name=run.name,
            num_cpus=resources.cpus_per_run,
            num_gpus=resources.gpus_per_run,
            max_retries=resources.retries,
            retry_exceptions=[ChildKilled],
        )
        submitted[options.remote(str(run.folder))] = run
    return submitted


def _outcome(ray: Any, reference: Any, run: Run) -> Outcome:
    """The outcome of a Ray task that has ended."""
    try:
        state, error = ray.get(reference)
    except ray.exceptions.TaskCancelledError:
        return Outcome("interrupted")
    except ChildKilled as killed:  # Ray raises a subclass of ChildKilled with a traceback as its text
        return Outcome("failed", str(getattr(killed, "cause", killed)))
    except ray.exceptions.RayError as died:
        return Outcome("failed", f"the Ray worker died: {str(died).strip().splitlines()[0]}")
    if state == "finished" and read_result(run) is None:
        return Outcome("failed", f"{run.folder} has no result of this run here: --out must be on a shared file system")
    return Outcome(state, error)


def _write_status(bar: tqdm, runs: Sequence[Run]) -> None:
    """Write one line per running run."""
    states = [(run.name, describe_state(run)) for run in runs]
    for name, state in states:
        if state != WAITING:
            _write(bar, f"  {name}: {state}")


def _write(bar: tqdm, line: str) -> None:
    bar.write(line, file=sys.stderr)
