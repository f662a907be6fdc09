"""The first lines of docs/clients.md that need no protocol's client, and LeRobot's, which are openpi's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.service.clients.snippets import PAGE, snippet
from tests.service.process import WAIT, Process, served

pytestmark = pytest.mark.slow

BUDGET = {"num_candidates": 32, "num_steps": 4, "seed": 7}
# A robot of LeRobot's, as far as the lines need one: five joints at 0.0 to 0.4, seen in another order, beside a camera.
ROBOT = """
class Robot:
    names = [f"{joint}.pos" for joint in ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "gripper")]
    action_features = dict.fromkeys(names, float)

    def get_observation(self):
        return {"front": [[[0, 0, 0]]], **{name: self.names.index(name) / 10 for name in sorted(self.names)}}

    def send_action(self, action):
        import json

        print(json.dumps(action))


robot = Robot()
"""


def act(server: Process, **fields: Any) -> list[float]:
    status, reply = server.request("POST", "/act", {**fields, **BUDGET})
    assert status == 200, reply
    return reply["action"]


def output(*command: str | Path) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_of_the_client(tmp_path: Path) -> None:
    with served() as server:
        server.wait_for("ready: cube-single")
        program = tmp_path / "snippet.py"
        program.write_text(snippet("sorl_client", {"localhost:8000": f"127.0.0.1:{server.port}"}))
        first, *ticks = output(sys.executable, program)
        assert json.loads(first) == act(server, observation=[0.0] * 28)
        assert len(ticks) == 10
        for tick in ticks:
            source, action = tick.split(maxsplit=1)
            assert source in ("fresh", "held")  # a busy machine may miss one
            assert len(json.loads(action)) == 5


def test_of_curl() -> None:
    with served() as server:
        server.wait_for("ready: cube-single")
        lines = snippet("curl", {"localhost:8000": f"127.0.0.1:{server.port}"}, "bash")
        assert json.loads("\n".join(output("bash", "-c", lines)))["action"] == act(server, observation=[0.0] * 28)


def test_of_lerobot(write: Any, run_client: Any, tmp_path: Path) -> None:
    limits = {"action_low": (-1.0,) * 5, "action_high": (1.0,) * 5}
    with served("--model", str(write("so101", 1, obs_dim=5, action_dim=5, **limits))) as server:
        server.wait_for("ready: so101")
        program = tmp_path / "snippet.py"
        program.write_text(ROBOT + snippet("LeRobot", {"localhost:8000": f"127.0.0.1:{server.port}"}))
        sent = run_client(program)
        assert list(sent) == [
            "shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "wrist_flex.pos", "gripper.pos"
        ]  # fmt: skip
        assert list(sent.values()) == act(server, observation=[0.0, 0.1, 0.2, 0.3, 0.4])


def test_every_section_has_lines_and_a_place_in_the_table() -> None:
    head, *sections = PAGE.read_text().split("\n## ")
    for section in sections:
        title = section.splitlines()[0]
        assert "```python" in section or "```bash" in section, title
        anchor = title.lower().replace(" ", "-")
        assert f"(#{anchor})" in head or title == "Parts of an observation", title
