"""What a command prints and exits with, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kernels.commands import command

SCRIPT = """
import os, signal, sys
from kernels.commands import command

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background

class Refused(OSError):
    pass

@command("sorl-x", Refused, interrupted="interrupted: run it again")
def main() -> int:
    {body}

sys.exit(main())
"""


def run(body: str, reader_gone: bool = False) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    reader, writer = os.pipe()
    if reader_gone:
        os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body)], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    if reader_gone:
        return done.returncode, "", done.stderr
    with os.fdopen(reader) as file:
        return done.returncode, file.read(), done.stderr


def test_the_status_that_main_returns_is_the_exit_status() -> None:
    assert run("print('done'); return 3") == (3, "done\n", "")


def test_a_refused_request_is_one_line_on_standard_error() -> None:
    assert run("raise Refused('no such file')") == (1, "", "sorl-x: no such file\n")


def test_an_error_of_our_own_keeps_its_traceback() -> None:
    status, _, error = run("raise KeyError('bug')")
    assert status == 1
    assert "Traceback" in error


def test_ctrl_c_exits_with_130_and_says_how_to_go_on() -> None:
    assert run("os.kill(os.getpid(), signal.SIGINT); signal.pause()") == (130, "", "interrupted: run it again\n")


def test_an_interrupt_may_bring_its_own_text() -> None:
    assert run("raise KeyboardInterrupt('saved at update 5')") == (130, "", "saved at update 5\n")


@pytest.mark.parametrize(
    "body",
    [
        "print('short'); return 0",
        "print('x' * 200_000); return 0",
        "print('short'); sys.exit(0)",
        "print('short', flush=True); return 0",
    ],
)
def test_output_that_nobody_reads_ends_the_command_without_a_word(body: str) -> None:
    assert run(body, reader_gone=True) == (141, "", "")


def test_a_broken_pipe_to_somebody_else_is_an_error() -> None:
    status, _, error = run("raise BrokenPipeError('a worker died')")
    assert status == 1
    assert "BrokenPipeError: a worker died" in error


def test_main_keeps_its_name_and_arguments() -> None:
    @command("sorl-x")
    def main(arguments: list[str]) -> int:
        """Doubles."""
        return 2 * len(arguments)

    assert main(["a"]) == 2
    assert main.__doc__ == "Doubles."
