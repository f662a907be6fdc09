"""The real command, interrupted and killed: training is kept, and the next start continues it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.conftest import TASK
from training.sweep.folder import locked
from training.sweep.plan import Run, Sweep, plan
from training.sweep.runner import Outcome, Resources, run_all

pytestmark = pytest.mark.slow
FOREVER = 10**9
IN_BACKGROUND = ("sh", "-c", "trap '' INT QUIT; exec \"$@\"", "sh")  # as `sorl-sweep ... &` in a script


@contextmanager
def endless(sweep: Sweep, out: Path, save_every: int, start: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """`sorl-sweep` in its own process group, as a shell starts it, training three seeds without end."""
    settings = {**sweep.settings, "hidden": [8], "save_every": save_every, "updates": FOREVER}
    command = [
        *start,
        *(sys.executable, "-m", "training.sweep.cli", "--out", str(out), "--tasks", TASK, "--seeds", "0", "1", "2"),
        *("--local-cpus", "2", "--status-every", "0.1"),
        *("--num-candidates", "1", "2", "--num-steps", "1", "--episodes", "1"),
        *("--set", *(f"{name}={value}" for name, value in settings.items())),
    ]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, text=True, start_new_session=True, **pipe) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_updates(process: subprocess.Popen[str], least: int) -> None:
    """Read the command's output until two runs have done `least` updates each."""
    assert process.stdout is not None
    reached = set()
    read = []
    for line in process.stdout:
        read.append(line)
        name, sign, state = line.strip().partition(": training on ")
        if sign and int(state.split()[1].replace(",", "")) >= least:
            reached.add(name)
        if len(reached) == 2:
            return
    pytest.fail("".join(read))


def runs_of(sweep: Sweep, out: Path, updates: int) -> list[Run]:
    sweep = replace(sweep, grid={}, seeds=(0, 1), settings=sweep.settings | {"updates": updates})
    return plan(sweep, out, out, cpus=1)


def done(run: Run) -> int:
    return int(torch.load(run.folder / "resume.pt", weights_only=True)["done"])


def finish(ray: Any, sweep: Sweep, out: Path) -> None:
    """Once the processes of the first start have ended, continue both runs by a few updates to their end."""
    for run in runs_of(sweep, out, FOREVER):
        with locked(run.folder / ".lock", wait=True):
            pass
    updates = 2 + max(done(run) for run in runs_of(sweep, out, FOREVER))
    runs = runs_of(sweep, out, updates)
    before = [done(run) for run in runs]
    outcomes = run_all(ray, runs, Resources())
    assert list(outcomes.values()) == [Outcome("finished")] * 2
    for run, start in zip(runs, before, strict=True):
        assert f"from update {start:,}\n" in (run.folder / "log.txt").read_text()
        assert done(run) == updates


@pytest.mark.parametrize("start", [(), IN_BACKGROUND], ids=["in front", "in background"])
def test_ctrl_c_saves_and_the_next_start_continues(
    sweep: Sweep, local_ray: Any, tmp_path: Path, start: tuple[str, ...]
) -> None:
    with endless(sweep, tmp_path, save_every=FOREVER, start=start) as process:
        wait_for_updates(process, least=10)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate()
    assert process.returncode == 130
    assert "stopping: running trainings save first" in output
    assert "3 interrupted" in output
    assert "run the same command again to continue" in output
    for run in runs_of(sweep, tmp_path, FOREVER):
        assert not (run.folder / "running.json").exists()
        assert done(run) >= 10
    finish(local_ray, sweep, tmp_path)


def test_a_killed_sweep_continues(sweep: Sweep, local_ray: Any, tmp_path: Path) -> None:
    with endless(sweep, tmp_path, save_every=100) as process:
        wait_for_updates(process, least=110)
        process.kill()
    finish(local_ray, sweep, tmp_path)
