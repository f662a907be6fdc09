"""The node in ROS 2 as users run it, between a robot's topics and `sorl-serve`: three processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.service.clients.snippets import snippet
from tests.service.process import served

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv" / "tools" / "ros2" / "bin" / "python"
WAIT = 60
JOINTS = ["shoulder", "elbow", "wrist"]
REST = [0.0, 0.5, 0.0, 1.0]
KEY = {"SORL_API_KEY": "0123456789abcdef0123456789abcdef"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="no ROS 2: see install.sh"),
]

MakePolicy = Callable[[float], Path]
Told = dict[str, Any]


class Robot:
    """`robot.py`: what it is told, and a way to have it do something."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def told(self, condition: Callable[[Told], object]) -> Told:
        """The next message for which `condition` holds."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if condition(message := json.loads(line)):
                return message
        raise AssertionError("the robot ended, or was not told within its time")

    def do(self, **what: Any) -> None:
        print(json.dumps(what), file=self._process.stdin, flush=True)


@contextmanager
def running(*command: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A Python program with ROS 2, in a ROS domain of this test alone; killed after `WAIT` seconds."""
    assert PYTHON.exists(), f"{PYTHON} is missing: make setup makes it"
    path = os.pathsep.join([str(ROOT / "examples" / "ros2"), str(ROOT / "client")])
    alone = {"ROS_DOMAIN_ID": str(os.getpid() % 100), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    environment = {**os.environ, **alone, "PYTHONPATH": path, **options.pop("environment", {})}
    with subprocess.Popen([PYTHON, *map(str, command)], env=environment, text=True, **options) as process:
        timer = threading.Timer(WAIT, process.kill)
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            process.kill()


@contextmanager
def robot() -> Iterator[Robot]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running(Path(__file__).parent / "robot.py", **pipes) as process:
        yield Robot(process)


def node(port: int, **parameters: Any) -> Any:
    """The node, with an arm's parameters."""
    given = {"url": f"http://127.0.0.1:{port}", "joints": JOINTS, "velocities": "joint_vel", "rest": REST, **parameters}
    arguments = [text for name, value in given.items() for text in ("-p", f"{name}:={json.dumps(value)}")]
    return running("-m", "sorl_ros2.sorl_node", "--ros-args", *arguments, stderr=subprocess.PIPE, environment=KEY)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_robot_is_driven_and_left_at_rest(arm: MakePolicy, ending: signal.Signals) -> None:
    with served("--model", str(arm(20.0)), **KEY) as server, robot() as body:
        server.wait_for("ready: arm")
        with node(server.port, deadline_ms=40) as driver:
            first = body.told(lambda told: "action" in told)
            assert len(first["action"]) == 4
            report = body.told(lambda told: int(told.get("figures", {}).get("fresh", 0)) >= 10)
            assert report["name"] == "sorl_node"

            body.do(joints=["wrist", "shoulder"])
            refused = body.told(lambda told: "refused" in told.get("message", ""))
            assert "joint_states.name: elbow is missing; found wrist, shoulder" in refused["message"]
            assert body.told(lambda told: "action" in told and told["action"] == REST)
            body.do(joints=[*JOINTS, "finger"])
            body.told(lambda told: told.get("action", REST) != REST)

            driver.send_signal(ending)
            assert driver.wait() == 0, driver.stderr.read()
            assert body.told(lambda told: told.get("action") == REST)


def test_a_stop_at_a_dead_server_until_a_reset(arm: MakePolicy) -> None:
    model = str(arm(20.0))
    with served("--model", model, **KEY) as server, robot() as body:
        server.wait_for("ready: arm")
        with node(server.port, on_miss="stop"):
            body.told(lambda told: told.get("action", REST) != REST)
            server.process.kill()
            server.process.wait()
            stopped = body.told(lambda told: "stopped" in told.get("message", ""))
            assert stopped["level"] == 2
            with served("--model", model, port=server.port, **KEY) as restarted:
                restarted.wait_for("ready: arm")
                body.do(reset=1)
                assert body.told(lambda told: "reset" in told)["reset"] is True
                body.told(lambda told: told.get("action", REST) != REST)


def test_trajectories(arm: MakePolicy) -> None:
    names = ["a", "b", "c", "d"]
    with served("--model", str(arm(20.0)), **KEY) as server, robot() as body:
        server.wait_for("ready: arm")
        with node(server.port, output="trajectory", action_joints=names):
            told = body.told(lambda told: "action" in told)
            assert (told["joints"], len(told["action"]), told["reached"]) == (names, 4, pytest.approx(0.05))


def test_the_lines_a_user_changes(arm: MakePolicy) -> None:
    with served("--model", str(arm(20.0)), **KEY) as server, robot() as body:
        server.wait_for("ready: arm")
        command = {
            "ros2 run sorl_ros2 sorl_node": f"exec {PYTHON} -m sorl_ros2.sorl_node",
            "localhost:8000": f"127.0.0.1:{server.port}",
            "/arm_controller/commands": "commands",
        }
        lines = snippet("ROS 2", command, "bash")
        with running("-c", "import os, sys; os.execvp('bash', ['bash', '-c', sys.argv[1]])", lines, environment=KEY):
            assert len(body.told(lambda told: "action" in told)["action"]) == 4


def test_no_server_ends_it() -> None:
    with node(1, wait_s=0.1) as driver:
        _, errors = driver.communicate()
        assert driver.returncode == 1
        assert "Connection refused" in errors
        assert "Traceback" not in errors


def test_what_does_not_fit_ends_it_with_a_name(arm: MakePolicy) -> None:
    with served("--model", str(arm(20.0)), **KEY) as server:
        server.wait_for("ready: arm")
        with node(server.port, joints=JOINTS[:2]) as driver:
            _, errors = driver.communicate()
            assert driver.returncode == 1
            assert "joints: expected 3 names, the size of joint_pos; found 2: shoulder, elbow" in errors
            assert "Traceback" not in errors
