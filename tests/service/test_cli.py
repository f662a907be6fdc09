"""`sorl-serve` as a process: the same bits each time; and one line for each thing a user can get wrong."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.cli import main
from tests.service.process import WAIT, served


@pytest.mark.slow
def test_same_bits_from_two_processes(checkpoint: Path, observations: Callable[[int], list[list[float]]]) -> None:
    replies = []
    for _ in range(2):
        with served("--model", str(checkpoint)) as server:
            server.wait_for("ready: small")
            replies.append([server.request("POST", "/act", {"observation": r, "seed": 4})[1] for r in observations(5)])
            server.process.send_signal(signal.SIGINT)
            assert server.end() == 0
    for first, second in zip(*replies, strict=True):
        assert [first[name] for name in ("action", "q", "q_std")] == [second[name] for name in ("action", "q", "q_std")]


def test_the_shipped_policy_is_served_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = ("-c", "import sys; from service.cli import main; sys.exit(main(sys.argv[1:]))")
    with served(program=program) as server:
        server.wait_for("ready: cube-single")


def test_an_installation_without_policies_says_what_to_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("service.settings.files", lambda package: tmp_path)
    assert main([]) == 2
    assert "--model FILE" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["service.cli", "service.recording.replay"])
def test_help_for_a_reader_that_stops_reading_is_no_traceback(module: str) -> None:
    """As in `sorl-serve --help | head -3`."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", module, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode in (0, 128 + signal.SIGPIPE)  # argparse itself ignores what it can't print


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=WAIT,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        "missing",
        "truncated",
        "port",
        "setting",
        "environment",
        "backend",
        "folder",
        "twice",
        "default",
        "records",
        "keys",
        "keys' text",
    ],
)
def test_fault_of_the_user_is_one_line(checkpoint: Path, tmp_path: Path, fault: str) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(checkpoint.read_bytes()[:500])
    (empty := tmp_path / "empty").mkdir()
    (twice := tmp_path / "twice").mkdir()
    for name in ("a", "b"):
        (twice / f"{name}.safetensors").write_bytes(checkpoint.read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        arguments, environment, status, expected = {
            "missing": (["--model", "none.safetensors"], {}, 1, r"none\.safetensors: cannot be read"),
            "truncated": (["--model", str(damaged)], {}, 1, r"damaged\.safetensors: truncated"),
            "port": (["--model", str(checkpoint), "--port", port], {}, 1, rf"can't listen on 127\.0\.0\.1:{port}"),
            "setting": (["--max-batch", "none"], {}, 2, "max_batch: "),
            "environment": ([], {"SORL_PROT": "1"}, 2, "SORL_PROT sets nothing; did you mean SORL_PORT"),
            "backend": (
                ["--model", str(checkpoint), "--backend", "triton", "--device", "cpu"],
                {"TRITON_INTERPRET": "0"},
                1,
                "triton",
            ),
            "folder": (["--model", str(empty)], {}, 1, r".*empty: a folder without any \*\.safetensors"),
            "twice": (["--model", str(twice)], {}, 1, r".*a\.safetensors and .*b\.safetensors both hold 'small'"),
            "default": (
                ["--model", str(checkpoint), "--default-model", "big"],
                {},
                1,
                "default_model: 'big' is not among small",
            ),
            "keys": (["--model", str(checkpoint), "--keys-file", "none.toml"], {}, 1, r"none\.toml: can't be read"),
            "keys' text": (["--model", str(checkpoint)], {"SORL_KEYS": "a = 1"}, 1, "SORL_KEYS: a: expected a table"),
            "records": (
                ["--model", str(checkpoint), "--record-dir", "/proc/nope"],
                {},
                1,
                "record_dir: /proc/nope can't",
            ),
        }[fault]
        done = run(*arguments, **environment)
    errors = [line for line in done.stderr.splitlines() if not re.match(r"\d{4}-\d\d-\d\d ", line)]
    assert done.returncode == status
    assert len(errors) == 1
    assert re.match(rf"sorl-serve: error: .*{expected}", errors[0])
