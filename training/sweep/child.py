"""The process of one run: `python -m training.sweep.child FOLDER` trains, evaluates and writes result.json.

It saves and stops at SIGTERM, and at the end of its standard input, which means that its Ray worker is gone.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from policy import load_policy
from training.evaluation import EvaluateConfig, evaluate_policy
from training.files import write_json
from training.sweep.errors import SweepError
from training.sweep.folder import locked, read_request
from training.sweep.plan import Run
from training.sweep.task import INTERRUPTED
from training.train import Interrupted, train


def execute(run: Run) -> None:
    """Train to the end, continuing from the folder; run missing evaluations; write result.json.

    Raises:
        SweepError: the folder has a policy of more updates than `run` asks for.
        Others: as `train` and `evaluate_policy`.
    """
    _note_phase(run, "training")
    path = train(run.config)
    policy = load_policy(path)
    provenance = policy.spec.provenance
    if provenance.updates != run.config.updates:
        raise SweepError(
            f"{path} has {provenance.updates:,} updates, more than {run.config.updates:,}: pass another --out"
        )
    _note_phase(run, "evaluating")
    configs = [evaluation.config(path, processes=run.config.threads) for evaluation in run.evaluations]
    reports = [_earlier_report(config, policy.version) or evaluate_policy(config) for config in configs]
    result = {
        "digest": run.digest(),
        "dataset_sha256": provenance.dataset_sha256,
        "policy_sha256": policy.version,
        "code_revision": provenance.code_revision,
        "config": run.config.as_json(),
        "evaluations": reports,
    }
    write_json(run.folder / "result.json", result)


def _earlier_report(config: EvaluateConfig, version: str) -> dict[str, Any] | None:
    """The report of an earlier attempt on the same policy, if any. Its file name identifies cells and seeds."""
    assert config.json is not None
    if not config.json.exists():
        return None
    report: dict[str, Any] = json.loads(config.json.read_text())
    return report if report["policy_sha256"] == version else None


def _note_phase(run: Run, phase: str) -> None:
    write_json(run.folder / "running.json", {"phase": phase, "host": socket.gethostname(), "pid": os.getpid()})


def _stop(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM outside the training loop, where there is nothing to save. The loop has its own handler."""
    for process in multiprocessing.active_children():
        process.terminate()  # the pool of an evaluation would finish its chunks of episodes first
    raise Interrupted


def _stop_at_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Run the folder named on the command line."""
    folder = Path(sys.argv[1])
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
    try:
        with locked(folder / ".lock", wait=True):  # an earlier child that lost its Ray worker may still be saving
            try:
                execute(read_request(folder))
            except Exception as error:
                write_json(folder / "error.json", {"type": type(error).__name__, "message": str(error)})
                traceback.print_exc()
                raise SystemExit(1) from None
            finally:
                (folder / "running.json").unlink(missing_ok=True)
    except Interrupted:
        raise SystemExit(INTERRUPTED) from None


if __name__ == "__main__":
    main()
