"""The installed commands: a closed pipe and Ctrl-C end them without a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sysconfig
from importlib.metadata import entry_points
from pathlib import Path
from typing import IO

import pytest

from tests.training.conftest import TASK

SCRIPTS = Path(sysconfig.get_path("scripts"))
COMMANDS = sorted(
    script.name for script in entry_points(group="console_scripts") if script.value.startswith("training.")
)


def help_without_a_reader(name: str) -> tuple[int, str]:
    """Exit status and standard error of `NAME --help`, its standard output a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([SCRIPTS / name, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    return done.returncode, done.stderr


def test_all_commands_are_known() -> None:
    names = ("domain", "evaluate", "export", "generate", "import", "parity", "results", "sweep", "train")
    assert [f"sorl-{name}" for name in names] == COMMANDS


@pytest.mark.parametrize(
    "name",
    [name if name == "sorl-generate" else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS],
)
def test_help_into_a_closed_pipe_ends_without_a_word(name: str) -> None:
    assert help_without_a_reader(name) == (128 + signal.SIGPIPE, "")


def read_until(stream: IO[bytes], text: bytes) -> bytes:
    """What was read up to and with `text`."""
    read = b""
    while text not in read:
        byte = stream.read(1)
        assert byte, f"ended with {read!r}"
        read += byte
    return read


def default_sigint() -> None:
    """As in a terminal; a test run in the background has SIGINT ignored, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupted(arguments: list[str], sign: bytes) -> tuple[int, str]:
    """Exit status and standard error of a command whose process group gets SIGINT once it has printed `sign`."""
    command = [SCRIPTS / arguments[0], *arguments[1:]]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=default_sigint
    ) as process:
        try:
            assert process.stderr is not None
            before = read_until(process.stderr, sign)
            os.killpg(process.pid, signal.SIGINT)
            rest = process.stderr.read()
        finally:
            process.kill()
    return process.returncode, (before + rest).decode()


def test_ctrl_c_while_workers_start(tmp_path: Path) -> None:
    """The workers, which are still importing, say nothing either."""
    arguments = ["sorl-generate", "pointmaze-medium", "--out-dir", str(tmp_path), "--episodes", "400"]
    status, error = interrupted([*arguments, "--processes", "2"], b"pointmaze-medium:")
    assert status == 130
    assert "interrupted: run the same command again to continue" in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_ctrl_c_during_training(dataset_path: Path, tmp_path: Path) -> None:
    arguments = ["sorl-train", "--task", TASK, "--dataset", str(dataset_path), "--run-dir", str(tmp_path / "run")]
    status, error = interrupted([*arguments, "--hidden", "8", "--threads", "1"], b"update/s")
    assert status == 130
    assert "interrupted and saved: run the same command again to continue" in error
    assert "Traceback" not in error
    assert (tmp_path / "run" / "resume.pt").exists()
