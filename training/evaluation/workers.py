"""`run_jobs`: episodes of one policy in parallel worker processes, one compute thread each."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from kernels.backend import Precision
from kernels.threads import available_cores, limit_torch_threads
from policy import CheckpointError, load_policy
from training.episodes import EpisodeResult, Job
from training.evaluation.rollout import EpisodeRunner
from training.signals import sigint_blocked

_runner: EpisodeRunner | None = None


def run_jobs(
    policy: Path, version: str, task: str, jobs: list[Job], processes: int, lanes: int, precision: Precision = "auto"
) -> Iterator[list[EpisodeResult]]:
    """Run `jobs` in parallel. Yields results as they finish, a few dozen at a time.

    Args:
        policy: the policy file.
        version: its sha256; every worker checks it.
        task: OGBench single-task name.
        processes: worker processes; 0 means one per available core.
        lanes: environments per process.
        precision: see `create_backend`.

    Raises:
        CheckpointError: the file was replaced.
        FloatingPointError: the policy produced a NaN.
    """
    processes = processes or available_cores()
    # A chunk is at most four rounds of lanes: small enough to balance, large enough that few lanes idle at its end.
    size = max(lanes, min(4 * lanes, -(-len(jobs) // processes)))
    chunks = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    context = multiprocessing.get_context("spawn")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(processes, context, _start_worker, (policy, version, task, lanes, precision)) as pool:
        try:
            with sigint_blocked():
                futures = [pool.submit(_run_chunk, chunk) for chunk in chunks]
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker(policy_path: Path, version: str, task: str, lanes: int, precision: Precision) -> None:
    from kernels.choice import create_backend

    global _runner
    limit_torch_threads(1)  # as many processes as cores: a second thread would only spin
    policy = load_policy(policy_path)
    if policy.version != version:
        raise CheckpointError(f"{policy_path} was replaced while its evaluation began")
    _runner = EpisodeRunner(create_backend(policy, "auto", "cpu", precision, threads=1), policy.spec, task, lanes)


def _run_chunk(jobs: list[Job]) -> list[EpisodeResult]:
    assert _runner is not None
    return list(_runner.run(jobs))
