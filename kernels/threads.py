"""The number of threads that compute may use. All code takes it from here.

A server that computes with torch leaves one core to its event loop, because libgomp's threads spin. With a busy event
loop on the same two cores, a 2-thread linear layer of 0.7 ms took 16 ms (a scheduler slice), median; one thread still
took its usual time.
"""

from __future__ import annotations

import logging
import math
import os
from functools import cache
from pathlib import Path

import torch

log = logging.getLogger(__name__)


def available_cores() -> int:
    """Cores that this process may use: the smaller of its CPU affinity and its cgroup quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _cgroup_quota()))


def _cgroup_quota(path: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """The CPU quota of cgroup v2 ("max 100000", "150000 100000") in cores, rounded up; 2^31 if unlimited."""
    try:
        quota, period = path.read_text().split()
    except (OSError, ValueError):
        return 2**31
    return 2**31 if quota == "max" else math.ceil(int(quota) / int(period))


def serving_threads() -> int:
    """Compute threads of a server that uses torch: all cores but one, which the event loop needs."""
    return max(1, available_cores() - 1)


def native_threads() -> int:
    """Threads of the native CPU engine: all cores.

    Its helper threads sleep between batches, run at idle priority, and are never waited for. So an event loop gets its
    core as soon as it wakes.
    """
    return available_cores()


def at_most_cores(threads: int) -> int:
    """`threads`, but no more than there are cores, with a warning: more would only wait for each other.

    0 stays 0, which is everyone's default.
    """
    cores = available_cores()
    if threads <= cores:
        return threads
    _warn(threads, cores)
    return cores


@cache
def _warn(threads: int, cores: int) -> None:
    """Once: a server asks for every policy that it loads."""
    log.warning("threads: %d asked for, and this process has %d cores: using %d", threads, cores, cores)


def limit_torch_threads(threads: int) -> None:
    """Set the threads of torch's operators in this process."""
    torch.set_num_threads(threads)
