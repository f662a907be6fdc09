"""Dispatch, tables and help of `sorl-bench`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli import COMMANDS, main
from bench.table import print_table, write_json


def test_help_names_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["faster"]])
def test_an_unknown_subcommand_is_an_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "usage: sorl-bench" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_subcommand_takes_json_and_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_a_table_has_aligned_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"tile": "a", "bytes": 1234567, "us": 1.23456}, {"tile": "long", "bytes": 1, "us": None}])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["tile      bytes    us", "a     1,234,567  1.23", "long          1     -"]


def test_json_is_written_where_asked(tmp_path: Path) -> None:
    write_json(None, {"a": 1})
    write_json(tmp_path / "out.json", {"a": [1, None]})
    assert json.loads((tmp_path / "out.json").read_text()) == {"a": [1, None]}


@pytest.mark.parametrize("arguments", [["--help"], ["engine", "--help"]])
def test_help_for_a_reader_that_stops_reading_is_no_traceback(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "bench.cli", *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
