"""How many threads compute may use: decided here and nowhere else.

libgomp's threads spin: with a busy event loop on the same two cores, a 2-thread linear layer of 0.7 ms took 16 ms
(a scheduler slice), median; with one thread it stays at its cost. A server therefore leaves a core to its event loop.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch


def available_cores() -> int:
    """Cores this process may use: CPU affinity, and the cgroup's quota where one is set."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _cgroup_quota()))


def _cgroup_quota(path: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Whole cores granted by cgroup v2 ("max 100000" or "150000 100000"), rounded up; huge if unlimited."""
    try:
        quota, period = path.read_text().split()
    except (OSError, ValueError):
        return 2**31
    return 2**31 if quota == "max" else math.ceil(int(quota) / int(period))


def serving_threads() -> int:
    """Compute threads of a server: all cores but the one its event loop needs."""
    return max(1, available_cores() - 1)


def native_threads() -> int:
    """Threads of the native CPU engine: all cores. Those that help the caller sleep between batches, run only where
    nobody else wants the core, and are never waited for, so an event loop gets its core when it wakes.
    """
    return available_cores()


def limit_torch_threads(threads: int) -> None:
    """Let torch's operators use `threads` threads in this process."""
    torch.set_num_threads(threads)
