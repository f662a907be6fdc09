"""Connection to Ray: to a cluster, or to a local Ray that is started here and stopped afterwards."""

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
    """Import the module `ray`.

    Raises:
        RayUnavailable: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise RayUnavailable("Ray is not installed: pip install 'sorl-serve[scale]'") from None
    return ray


@contextmanager
def connected(address: str | None, cpus: int) -> Iterator[Any]:
    """Yield the module `ray`, connected. An existing connection of this process is used and left open.

    Args:
        address: of a cluster; "auto" finds the one that this machine belongs to. None starts a local Ray.
        cpus: cores of the local Ray. It finds GPUs by itself.

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
    """Raise OSError if nothing listens at HOST:PORT. Ray itself (2.60) was still trying after ten minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "/" not in host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def require_resources(ray: Any, cpus: float, gpus: float) -> None:
    """Raise SweepError if a run needs more than all machines have together; it would wait forever."""
    there = ray.cluster_resources()
    for name, needed in (("CPU", cpus), ("GPU", gpus)):
        if needed > there.get(name, 0):
            raise SweepError(f"a run needs {needed:g} {name}, and Ray has {there.get(name, 0):g}")
