"""The ROS 2 node's logic, without ROS: against a real server, and against one that fails when a test says so."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sorl_client import Action, Client, InvalidArgument, Overloaded, RequestRefused
from sorl_ros2.bridge import ERROR, OK, WARN, Bridge, BridgeError, Settings, in_order

from service.settings import Settings as ServerSettings
from tests.client.conftest import reply_to
from tests.clock import Clock
from tests.service.listening import listening

MakePolicy = Callable[[float], Path]
UNHURRIED_HZ = 0.1  # a busy machine answers within the 8 s of a tick
JOINTS = ["shoulder", "elbow", "wrist"]
SHUFFLED = ["wrist", "finger", "shoulder", "elbow"]  # as joint_states has them
ARM = {
    "name": "arm",
    "obs_dim": 7,
    "observation_keys": [
        {"name": "joint_pos", "size": 3}, {"name": "joint_vel", "size": 3}, {"name": "gripper", "size": 1}
    ],
    "action_dim": 2,
    "control_hz": UNHURRIED_HZ,
}  # fmt: skip
PLAIN = {"name": "plain", "obs_dim": 4, "observation_keys": [], "action_dim": 2, "control_hz": UNHURRIED_HZ}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Recorded(Client):
    """Keeps what it was asked and what it answered."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.calls: list[tuple[list[float], Action]] = []

    def act(self, observation: Any, **fields: Any) -> Action:
        reply = super().act(observation, **fields)
        self.calls.append((observation.tolist(), reply))
        return reply


class Server:
    """Answers the n-th question with (n, 0.5), or raises `fails`."""

    def __init__(self, *models: dict[str, Any]) -> None:
        self.entries = list(models)
        self.asked: list[list[float]] = []
        self.fails: Exception | None = None

    def models(self) -> list[dict[str, Any]]:
        return self.entries

    def act(self, observation: Any, **fields: Any) -> Action:
        self.asked.append(observation.tolist())
        if self.fails is not None:
            raise self.fails
        reply = reply_to({"request_id": "r"}, [len(self.asked), 0.5])
        return Action.from_reply(reply, latency_ms=1.0, attempts=1)


def bridge_to(server: Any, **parameters: Any) -> tuple[Bridge, list[list[float]], Clock]:
    """A bridge, the actions that it publishes, and its clock."""
    published: list[list[float]] = []
    clock = Clock()
    return Bridge(server, Settings(**parameters), published.append, clock=clock), published, clock


def ready(**parameters: Any) -> tuple[Bridge, list[list[float]], Clock, Server]:
    """One of four plain numbers, with an observation."""
    server = Server(PLAIN)
    bridge, published, clock = bridge_to(server, **parameters)
    bridge.receive([1, 2, 3, 4])
    return bridge, published, clock, server


@pytest.mark.anyio
@pytest.mark.parametrize("whole", [False, True])
async def test_a_real_server_gets_parts_in_its_order_and_its_action_is_published(arm: MakePolicy, whole: bool) -> None:
    velocities = {} if whole else {"velocities": "joint_vel"}

    def robot(url: str) -> tuple[list[list[float]], Recorded]:
        with Recorded(url) as client:
            bridge, published, _ = bridge_to(client, joints=JOINTS, num_candidates=4, num_steps=2, **velocities)
            assert (bridge.model, bridge.hz, bridge.action_dim) == ("arm", pytest.approx(UNHURRIED_HZ), 4)
            if whole:
                bridge.receive([0.1, 0.2, 0.3, 1, 2, 3, 0.5])
            else:
                assert bridge.topics == {"gripper": "observation/gripper"}
                bridge.receive([0.5], "gripper")
                bridge.receive_joints(SHUFFLED, position=[0.3, 9, 0.1, 0.2], velocity=[3, 9, 1, 2])
            bridge.tick()
            assert bridge.status()[:2] == (OK, "arm at 0.1 Hz")
            bridge.close()
        return published, client

    async with listening(ServerSettings(model=arm(UNHURRIED_HZ), threads=1, precision="fp32")) as server:
        url = f"http://127.0.0.1:{server.port}"
        published, client = await anyio.to_thread.run_sync(robot, url)
        ((_, reply),) = client.calls
        named = {"observation/joint_vel": [1, 2, 3], "observation/joint_pos": [0.1, 0.2, 0.3]}
        budget = {"num_candidates": 4, "num_steps": 2, "seed": reply.seed}
        truth = (await server.client.post("/act", json={"observation/gripper": 0.5, **named, **budget})).json()
    assert published == [truth["action"], [0, 0, 0, 0]]


@pytest.mark.anyio
async def test_a_refusal_by_a_real_server_is_raised(arm: MakePolicy) -> None:
    def robot(url: str) -> None:
        with Client(url) as client:
            bridge, _, _ = bridge_to(client, num_candidates=5000)
            bridge.receive([0.0] * 7)
            bridge.tick()

    async with listening(ServerSettings(model=arm(UNHURRIED_HZ), threads=1, precision="fp32")) as server:
        with pytest.raises(RequestRefused, match="num_candidates"):
            await anyio.to_thread.run_sync(robot, f"http://127.0.0.1:{server.port}")


@pytest.mark.parametrize(
    ("receive", "told"),
    [
        (
            lambda bridge: bridge.receive_joints(["wrist", "shoulder"], position=[0, 0]),
            "joint_states.name: elbow is missing; found wrist, shoulder",
        ),
        (
            lambda bridge: bridge.receive_joints([*SHUFFLED, "elbow"], position=[0] * 5),
            "joint_states.name: elbow is there 2 times",
        ),
        (lambda bridge: bridge.receive_joints([], position=[]), "shoulder is missing; found none"),
        (
            lambda bridge: bridge.receive_joints(SHUFFLED, position=[0, 0, 0]),
            "joint_states.position: expected 4, one for each name; found 3",
        ),
        (lambda bridge: bridge.receive_joints(JOINTS, position=[0, np.nan, 0]), "expected finite numbers; found nan"),
        (lambda bridge: bridge.receive([0, 1], "gripper"), "observation/gripper: expected 1 numbers; found 2"),
        (lambda bridge: bridge.receive([1e39], "gripper"), "expected finite numbers; found 1e+39 at 0"),
        (lambda bridge: bridge.receive([0] * 6), "observation: expected 7 numbers; found 6"),
        (lambda bridge: bridge.receive(["a"], "gripper"), "observation/gripper: expected 1 numbers; found ['a']"),
    ],
)
def test_a_message_at_fault_is_refused_by_name_and_changes_nothing(
    receive: Callable[[Bridge], None], told: str
) -> None:
    server = Server(ARM)
    bridge, published, _ = bridge_to(server, joints=JOINTS)
    bridge.receive([1, 2, 3, 4, 5, 6, 7])
    receive(bridge)
    bridge.tick()
    assert server.asked == [[1, 2, 3, 4, 5, 6, 7]]
    level, message, _ = bridge.status()
    assert level == ERROR
    assert told in message
    assert bridge.status().level == OK  # it is told once
    assert published == [[1, 0.5]]


def test_positions_are_not_taken_where_velocities_are_at_fault() -> None:
    server = Server(ARM)
    bridge, _, _ = bridge_to(server, joints=JOINTS, velocities="joint_vel")
    bridge.receive([1, 2, 3, 4, 5, 6, 7])
    bridge.receive_joints(JOINTS, position=[9, 9, 9], velocity=[])
    bridge.tick()
    assert server.asked == [[1, 2, 3, 4, 5, 6, 7]]


def test_nothing_is_published_until_the_observation_is_complete() -> None:
    bridge, published, _ = bridge_to(Server(ARM), joints=JOINTS, velocities="joint_vel")
    bridge.tick()
    assert bridge.status() == (
        WARN,
        "waiting: observation: nothing new for 200 ms of joint_pos, joint_vel, gripper",
        {"ticks": "0", "misses": "0", "late": "0", "fresh": "0", "held": "0", "fallback": "0", "stopped": "0"},
    )
    bridge.receive_joints(JOINTS, position=[0, 0, 0], velocity=[0, 0, 0])
    bridge.tick()
    assert "of gripper" in bridge.status().message
    bridge.close()
    assert published == []


def test_an_old_part_means_rest_and_nothing_from_before_is_held() -> None:
    bridge, published, clock, server = ready(rest=[0.25, -0.25], max_age_ms=100)
    bridge.tick()
    clock.now += 0.1
    bridge.tick()
    clock.now += 0.001
    bridge.tick()
    assert bridge.status()[:2] == (ERROR, "resting: observation: nothing new for 100 ms of state")
    assert len(server.asked) == 2
    bridge.receive([5, 6, 7, 8])
    server.fails = Overloaded("busy")
    bridge.tick()
    server.fails = None
    bridge.tick()
    assert published == [[1, 0.5], [2, 0.5], [0.25, -0.25], [0.25, -0.25], [4, 0.5]]


def test_a_miss_holds_and_is_counted() -> None:
    bridge, published, _, server = ready()
    bridge.tick()
    server.fails = Overloaded("the queue is full")
    bridge.tick()
    bridge.tick()
    level, message, figures = bridge.status()
    assert (level, published) == (WARN, [[1, 0.5]] * 3)
    assert "misses since the last report: 2, the last one: " in message
    assert "the queue is full" in message
    assert {name: figures[name] for name in ("ticks", "misses", "fresh", "held")} == {
        "ticks": "3", "misses": "2", "fresh": "1", "held": "2"
    }  # fmt: skip
    assert float(figures["latency_p50_ms"]) <= float(figures["latency_p99_ms"])
    server.fails = None
    bridge.tick()
    assert bridge.status().level == OK


def test_stop_rests_until_a_reset_also_when_the_observation_stays_away() -> None:
    bridge, published, clock, server = ready(on_miss="stop", rest=[0, 1])
    bridge.tick()
    server.fails = Overloaded("the queue is full")
    bridge.tick()
    server.fails = None
    clock.now += 1
    bridge.tick()
    bridge.receive([1, 2, 3, 4])
    bridge.tick()
    assert bridge.status().level == ERROR
    assert "stopped until a reset: " in bridge.status().message
    assert "the queue is full" in bridge.status().message
    assert len(server.asked) == 2
    bridge.reset()
    bridge.tick()
    assert bridge.status().level == OK
    assert published == [[1, 0.5], [0, 1], [0, 1], [0, 1], [3, 0.5]]


def test_the_last_action_is_rest() -> None:
    bridge, published, _, _ = ready(rest=[0.5, 0])
    bridge.tick()
    bridge.close()
    assert published == [[1, 0.5], [0.5, 0]]
    with pytest.raises(RuntimeError, match="closed"):
        bridge.tick()


@pytest.mark.parametrize(
    ("parameters", "field", "expected"),
    [
        ({"on_miss": "retry"}, "on_miss", "expected one of hold, stop; found 'retry'"),
        ({"output": "twist"}, "output", "expected one of array, trajectory"),
        ({"joints": "elbow"}, "joints", "expected names of joints, each once; found 'elbow'"),
        ({"joints": ["elbow", "elbow"]}, "joints", "each once"),
        ({"joints": ["elbow", ""]}, "joints", "names of joints"),
        ({"action_joints": [1]}, "action_joints", "names of joints"),
        ({"rest": ["a", "b"]}, "rest", "expected numbers"),
        ({"rest": [0.0]}, "rest", "expected 2 numbers; found 1"),
        ({"rest": [0.0, float("inf")]}, "rest", "expected finite numbers"),
        ({"max_age_ms": 0}, "max_age_ms", "a number above 0; found 0"),
        ({"max_age_ms": "20"}, "max_age_ms", "a number above 0; found '20'"),
        ({"wait_s": -1}, "wait_s", "a number above 0; found -1"),
        ({"url": 8000}, "url", "expected a text; found 8000"),
        ({"model": "leg"}, "model", "expected one of those served: arm; found 'leg'"),
        ({"joints": JOINTS[:2]}, "joints", "expected 3 names, the size of joint_pos; found 2: shoulder, elbow"),
        ({"joints": JOINTS, "positions": "qpos"}, "positions", "joint_pos 3, joint_vel 3, gripper 1; found 'qpos'"),
        ({"joints": JOINTS, "velocities": "joint_pos"}, "velocities", "found 'joint_pos'"),
        ({"output": "trajectory", "action_joints": JOINTS}, "action_joints", "expected 2 names, the width of arm's"),
    ],
)
def test_a_parameter_that_does_not_fit_is_named(parameters: dict[str, Any], field: str, expected: str) -> None:
    with pytest.raises(BridgeError) as raised:
        bridge_to(Server(ARM), **parameters)
    assert raised.value.field == field
    assert str(raised.value).startswith(f"{field}: ")
    assert expected in str(raised.value)


BEYOND = [("num_candidates", -1), ("num_steps", 1.5), ("deadline_ms", 10_001), ("min_quality", 2)]


@pytest.mark.parametrize(("name", "value"), BEYOND)
def test_what_the_control_loop_checks_is_named_too(name: str, value: float) -> None:
    with pytest.raises(InvalidArgument, match=f"^{name}: |.*: {name}: "):
        bridge_to(Server(ARM), **{name: value})


def test_of_several_models_the_default_is_driven_or_the_one_that_is_named() -> None:
    assert bridge_to(Server(ARM, PLAIN | {"default": True}))[0].model == "plain"
    with pytest.raises(BridgeError, match="model: expected one of those served: arm, plain"):
        bridge_to(Server(ARM, PLAIN))
    assert bridge_to(Server(ARM, PLAIN), model="plain")[0].model == "plain"


def test_the_page_has_every_parameter() -> None:
    page = (Path(__file__).parents[3] / "examples" / "ros2" / "README.md").read_text()
    rows = page.split("| parameter |")[1].split("\n\n")[0].splitlines()[2:]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])} == {
        field.name for field in fields(Settings)
    }


def test_topics_of_parts() -> None:
    def topics(*names: str) -> dict[str, str]:
        keys = [{"name": name, "size": 1} for name in names]
        return bridge_to(Server(ARM | {"obs_dim": len(names), "observation_keys": keys}))[0].topics

    assert bridge_to(Server(PLAIN))[0].topics == {}
    assert topics("tcp pose.x", "2nd arm", "é") == {
        "tcp pose.x": "observation/tcp_pose_x", "2nd arm": "observation/_2nd_arm", "é": "observation/_"
    }  # fmt: skip
    with pytest.raises(BridgeError, match="more than one part would be at the topic observation/a_b"):
        topics("a.b", "a b")


@given(st.dictionaries(st.text(min_size=1), st.floats(allow_nan=False), min_size=1), st.randoms())
def test_joints_are_found_by_name(state: dict[str, float], random: Any) -> None:
    joints = random.sample(sorted(state), random.randint(1, len(state)))
    assert in_order("position", joints, list(state), list(state.values())) == [state[joint] for joint in joints]
