"""requests with json-numpy (OpenVLA's form) and with msgpack-numpy, unmodified, against `sorl-serve`."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from policy import ObservationKey, load_policy, save_policy
from tests.service.clients.snippets import snippet
from tests.service.process import Process, served

pytestmark = pytest.mark.slow

Rows = Callable[[int], list[list[float]]]
SHIPPED = Path(__file__).parents[3] / "deploy" / "policies" / "cube-single.safetensors"
CLIENT = "requests_client.py"
ENCODINGS = ("json-numpy", "json-numpy-text", "msgpack-numpy")


def act(server: Process, **fields: Any) -> dict[str, Any]:
    """The truth: the same request in plain lists."""
    status, reply = server.request("POST", "/act", fields)
    assert status == 200, reply
    return reply


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_replies_and_errors(checkpoint: Path, observations: Rows, start_client: Any, encoding: str) -> None:
    rows = observations(2)
    options = {"num_candidates": 5, "num_steps": 3, "seed": 7, "return_candidates": True}
    with served("--model", str(checkpoint)) as server, start_client(CLIENT, encoding, server.port) as ask:
        server.wait_for("ready: small")
        for observation in (rows[0], rows):
            expected = act(server, observation=observation, **options)
            reply = ask({"fields": {"observation": observation, **options}})
            assert reply.keys() - {"status", "dtypes"} == expected.keys()
            same = expected.keys() - {"request_id", "timing_ms"}
            assert {name: reply[name] for name in same} == {name: expected[name] for name in same}
            assert reply["dtypes"]["action"] == reply["dtypes"]["candidates"] == "float32"
        batch = ask({"fields": {"observation": [[rows[0]]], **options}})
        assert batch["action"] == act(server, observation=rows[:1], **options)["action"]

        for wrong, status, code, field in [
            ({"observation": rows[0][:4]}, 422, "invalid_request", "observation"),
            ({"observation": [[rows[0]] * 2]}, 422, "invalid_request", "observation"),
            ({"observation": rows[0], "state": rows[0]}, 422, "invalid_request", "state"),
            ({"observation/arm": rows[0]}, 422, "invalid_request", "observation"),
            ({"observation": rows[0], "num_steps": 0}, 422, "invalid_request", "num_steps"),
            ({"observation": rows[0], "model": "other"}, 404, "unknown_model", "model"),
        ]:
            problem = ask({"fields": wrong})
            assert (problem["status"], problem["code"], problem["field"]) == (status, code, field)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_500_in_a_row(checkpoint: Path, observations: Rows, start_client: Any, encoding: str) -> None:
    row = observations(1)[0]
    with served("--model", str(checkpoint)) as server, start_client(CLIENT, encoding, server.port) as ask:
        server.wait_for("ready: small")
        actions = ask({"fields": {"state": row}, "seeds": list(range(500))})
        assert len(actions) == 500
        for seed in (0, 250, 499):
            assert actions[seed] == act(server, observation=row, seed=seed)["action"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_key_is_asked_for_and_a_restarted_server_is_found_again(
    write: Any, observations: Rows, start_client: Any, encoding: str
) -> None:
    """With a policy that takes parts, under the names that LeRobot gives them."""
    row = observations(1)[0]
    path = write("keyed", 1, observation_keys=(ObservationKey("joint_pos", 5), ObservationKey("gripper", 1)))
    fields = {"observation.joint_pos": row[:5], "observation.gripper": row[5:], "seed": 3}
    arguments = ("--model", str(path), "--drain-grace-seconds", "0")
    key = {"SORL_API_KEY": "0123456789abcdef0123456789abcdef"}
    with served(*arguments, **key) as server, start_client(CLIENT, encoding, server.port) as ask:
        server.wait_for("ready: keyed")
        assert ask({"fields": fields})["status"] == 401
        headers = {"Authorization": f"Bearer {key['SORL_API_KEY']}"}
        before = ask({"fields": fields, "headers": headers})
        _, expected = server.request("POST", "/act", {"observation": row, "seed": 3}, headers)
        assert before["action"] == expected["action"]
        problem = ask({"fields": {"observation.joint_pos": row[:5], "observation.grip": row[5:]}, "headers": headers})
        assert (problem["status"], problem["field"]) == (422, "observation/grip")
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == 0
        assert ask({"fields": fields, "headers": headers})["status"] == 0
        with served(*arguments, port=server.port, **key) as restarted:
            restarted.wait_for("ready: keyed")
            assert ask({"fields": fields, "headers": headers})["action"] == before["action"]


@pytest.mark.parametrize("section", ["OpenVLA", "msgpack-numpy"])
def test_the_lines_a_user_changes(run_client: Any, tmp_path: Path, section: str) -> None:
    with served() as server:
        server.wait_for("ready: cube-single")
        program = tmp_path / "snippet.py"
        program.write_text(snippet(section, {"localhost:8000": f"127.0.0.1:{server.port}"}))
        expected = act(server, observation=[0.0] * 28, num_candidates=32, seed=7)
        assert run_client(program) == expected["action"]


def test_the_lines_a_user_of_named_parts_changes(run_client: Any, tmp_path: Path) -> None:
    path = tmp_path / "cube.safetensors"
    policy = load_policy(SHIPPED)
    policy.spec = replace(policy.spec, observation_keys=(ObservationKey("joint_pos", 20), ObservationKey("gripper", 8)))
    save_policy(policy, path)
    with served("--model", str(path)) as server:
        server.wait_for("ready: cube-single")
        program = tmp_path / "snippet.py"
        program.write_text(snippet("Parts of an observation", {"localhost:8000": f"127.0.0.1:{server.port}"}))
        expected = act(server, observation=[0.0] * 20 + [0.5] * 8, num_candidates=32, seed=7)
        assert run_client(program) == expected["action"]
