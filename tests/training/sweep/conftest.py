from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.training.conftest import TASK
from training.sweep.plan import Evaluation, Sweep

# Python runs `sitecustomize` when it starts. If the folder of a run's process has a file "kill", the process deletes it
# and kills what it names: "child" (itself) or "worker" (the Ray worker that started it).
SITECUSTOMIZE = """
import os, pathlib, signal, sys
if "training.sweep.child" in sys.orig_argv:
    order = pathlib.Path(sys.orig_argv[-1]) / "kill"
    if order.exists():
        victim = {"child": os.getpid(), "worker": os.getppid()}[order.read_text()]
        order.unlink()
        os.kill(victim, signal.SIGKILL)
"""


@pytest.fixture(scope="session")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A local Ray of two CPUs, whose processes obey "kill" files."""
    from training.sweep.cluster import connected

    folder = tmp_path_factory.mktemp("sitecustomize")
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        with connected(address=None, cpus=2) as ray:
            yield ray


@pytest.fixture
def sweep(dataset_path: Path) -> Sweep:
    """Four trainings of a second each, evaluated on one episode for each of two cells."""
    return Sweep(
        tasks=(TASK,),
        seeds=(0, 1),
        settings={"dataset": dataset_path, "hidden": (8,), "batch_size": 8, "updates": 6, "log_every": 2},
        grid={"q_agg": ("mean", "min")},
        evaluations=(Evaluation(num_candidates=(1, 2), num_steps=(1,), episodes=1),),
    )
