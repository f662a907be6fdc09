"""The wheel alone, in an empty environment and outside the checkout, serves the shipped policy."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.service.process import served

ROOT = Path(__file__).parents[2]
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")


@pytest.mark.slow
def test_an_installed_wheel_answers_act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        monkeypatch.delenv(name, raising=False)
    source = tmp_path / "source"  # as the checkout is cloned: nothing that was built or left in it
    subprocess.run(["git", "clone", "--quiet", ROOT, source], check=True)
    subprocess.run([sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("sorl_serve-*.whl")
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = str(environment / "bin" / "python")
    subprocess.run([python, *PIP, "install", f"{wheel}[serve]"], check=True, cwd=tmp_path)
    with served(program=(str(environment / "bin" / "sorl-serve"),), python=python, folder=tmp_path) as server:
        server.wait_for("ready: cube-single")
        status, model = server.request("GET", "/models/cube-single")
        assert status == 200
        status, reply = server.request("POST", "/act", {"observation": [0.0] * model["obs_dim"], "seed": 1})
        assert status == 200
        assert len(reply["action"]) == model["action_dim"]
        assert reply["engine"].startswith("cpu/")  # the native engine came along


def test_the_commands_of_the_project_are_installed() -> None:
    names = {script.name for script in entry_points(group="console_scripts")}
    assert {"sorl-serve", "sorl-replay", "sorl-train", "sorl-bench"} <= names
