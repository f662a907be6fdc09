"""Robots' own clients, in processes of an environment of their own (`install.sh`), against `sorl-serve` as a process."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv" / "tools" / "clients" / "bin" / "python"
WAIT = 120

RunClient = Callable[..., Any]


@pytest.fixture
def run_client() -> RunClient:
    """`run_client("openpi_client.py", port, ...)`: run a program beside this file; what it prints last is JSON."""
    assert PYTHON.exists(), f"{PYTHON} is missing: make setup makes it"

    def run(program: str, *arguments: object) -> Any:
        done = subprocess.run(
            [PYTHON, Path(__file__).parent / program, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run
