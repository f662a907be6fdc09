"""A Ray to run on: one that is there already, a cluster's, or a local one for as long as it is needed."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from training.sweep.errors import RayUnavailable, SweepError

CONNECT_SECONDS = 10.0


def import_ray() -> Any:
    """The module `ray`.

    Raises:
        RayUnavailable: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise RayUnavailable("Ray is not installed: pip install 'sorl-serve[scale]'") from None
    return ray


@contextmanager
def connected(address: str | None, cpus: int) -> Iterator[Any]:
    """The module `ray`, connected: to what this process has already, to `address`, or to a local Ray started here.

    Args:
        address: of a cluster ("auto" finds the one this machine is part of); None starts a local Ray.
        cpus: of the local Ray, which finds GPUs by itself.

    Raises:
        RayUnavailable: Ray is not installed, or nothing answers at `address`.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
    else:
        try:
            _require_listener(address)
            ray.init(address=address, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            raise RayUnavailable(f"--address {address}: {error}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Raises OSError if nobody listens at HOST:PORT; Ray itself (2.60) was still trying after ten minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "/" not in host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def require_resources(ray: Any, cpus: float, gpus: float) -> None:
    """Raises SweepError if a run needs more than all machines have together: it would wait for ever."""
    there = ray.cluster_resources()
    for name, needed in (("CPU", cpus), ("GPU", gpus)):
        if needed > there.get(name, 0):
            raise SweepError(f"a run needs {needed:g} {name}, and Ray has {there.get(name, 0):g}")
