"""Robots' own clients, in processes of an environment of their own (`install.sh`), against a `sorl-serve` process."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv" / "tools" / "clients" / "bin" / "python"
WAIT = 120

RunClient = Callable[..., Any]
StartClient = Callable[..., AbstractContextManager[Callable[[Any], Any]]]


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


@pytest.fixture
def start_client() -> StartClient:
    """`with start_client("openpi_client.py", port, ...) as ask`: a program beside this file that answers every line of
    JSON with one; `ask(value)` returns the answer. So a test can do something in between, such as restart the server.
    """
    assert PYTHON.exists(), f"{PYTHON} is missing: make setup makes it"

    @contextmanager
    def start(program: str, *arguments: object) -> Iterator[Callable[[Any], Any]]:
        command = [PYTHON, Path(__file__).parent / program, *map(str, arguments)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdin is not None
            assert running.stdout is not None
            timer = threading.Timer(WAIT, running.kill)
            timer.start()

            def ask(value: Any) -> Any:
                print(json.dumps(value), file=running.stdin, flush=True)
                line = running.stdout.readline()
                assert line, f"{program} ended with {running.wait()}; its errors are above"
                return json.loads(line)

            try:
                yield ask
                running.stdin.close()
                assert running.wait() == 0
            finally:
                timer.cancel()
                running.kill()

    return start
