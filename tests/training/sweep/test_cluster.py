"""A cluster that does not answer is an error at once."""

from __future__ import annotations

import socket
import sys
from types import ModuleType

import pytest

from training.sweep.cluster import connected
from training.sweep.errors import RayUnavailable


def test_an_address_where_nothing_listens_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = ModuleType("ray")
    ray.is_initialized = lambda: False  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    with socket.socket() as bound:  # bound but not listening: its port refuses connections
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(RayUnavailable, match=f"--address {address}: "), connected(address, cpus=1):
            pass
