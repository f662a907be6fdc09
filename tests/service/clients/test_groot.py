"""A client that is written as GR00T's, against `sorl-serve`: what it gets is what POST /act answers."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.service.clients.snippets import snippet
from tests.service.process import Process, served

pytestmark = pytest.mark.slow

Rows = Callable[[int], list[list[float]]]


def zmq_port(server: Process) -> int:
    found = re.search(r"listening on tcp://127\.0\.0\.1:(\d+) \(GR00T's protocol\)", "".join(server.log))
    assert found, server.log
    return int(found[1])


def act(server: Process, **fields: Any) -> dict[str, Any]:
    status, reply = server.request("POST", "/act", fields)
    assert status == 200, reply
    return reply


def test_groot(checkpoint: Path, observations: Rows, start_client: Any) -> None:
    rows = observations(3)
    options = {"num_candidates": 5, "num_steps": 3, "seed": 7, "temperature": 0.5}
    with (
        served("--model", str(checkpoint), "--zmq-port", "0") as server,
        start_client("groot_client.py", zmq_port(server)) as ask,
    ):
        about = ask({"do": "about"})  # waits until the server is warm
        assert (about["ping"], about["reset"]) == (True, {})
        assert about["config"]["state"] == {"steps": 1, "keys": ["state"]}
        assert about["config"]["action"] == {"steps": 1, "keys": ["action"]}
        assert about["config"]["policy"] == server.request("GET", "/models")[1]["models"][0]

        expected = act(server, observation=rows, **options)
        for by_state in (True, False):
            answer = ask({"do": "act", "rows": rows, "options": options, "by_state": by_state})
            assert (answer["shape"], answer["dtype"]) == ([3, 1, 3], "float32")
            assert answer["action"] == expected["action"]
            different = {"request_id", "timing_ms"}
            assert answer["info"].keys() == expected.keys() - {"action"}
            for name in answer["info"].keys() - different:
                assert answer["info"][name] == expected[name], name

        for command, error in [
            ({"do": "act", "rows": [rows[0][:4]]}, "invalid_request: observation: expected 6 numbers a row"),
            ({"do": "act", "rows": rows, "options": {"steps": 4}}, "invalid_request: 'steps' is not a field"),
            ({"do": "act", "rows": rows, "options": {"model": "other"}}, "unknown_model: model: 'other' is not served"),
            ({"do": "endpoint", "name": "kill"}, "not_found: endpoint: 'kill' is not served"),
        ]:
            assert ask(command)["error"].startswith(f"Server error: {error}")
        assert ask({"do": "act", "rows": rows, "options": options})["action"] == expected["action"]


def test_the_lines_a_user_changes(run_client: Any, tmp_path: Path) -> None:
    with served("--zmq-port", "0") as server:
        program = tmp_path / "snippet.py"
        program.write_text(snippet("GR00T", {"localhost:5555": f"127.0.0.1:{zmq_port(server)}"}))
        action = run_client(program)
        budget = {"num_candidates": 32, "num_steps": 4, "seed": 7}
        assert [steps[0] for steps in action] == act(server, observation=[[0.0] * 28], **budget)["action"]


def test_500_in_a_row_and_eight_robots_at_once(checkpoint: Path, observations: Rows, start_client: Any) -> None:
    row = observations(1)[0]
    with (
        served("--model", str(checkpoint), "--zmq-port", "0") as server,
        start_client("groot_client.py", zmq_port(server)) as ask,
    ):
        (actions,) = ask({"do": "many", "row": row, "seeds": list(range(500))})
        assert len(actions) == 500
        for seed in (0, 250, 499):
            assert actions[seed] == act(server, observation=row, seed=seed)["action"]
        at_once = ask({"do": "many", "row": row, "seeds": list(range(60)), "robots": 8})
        assert at_once == [actions[:60]] * 8


def test_a_key_is_asked_for_and_a_restarted_server_is_found_again(
    checkpoint: Path, observations: Rows, start_client: Any
) -> None:
    rows = observations(1)
    key = {"SORL_API_KEY": "0123456789abcdef0123456789abcdef"}
    arguments = ("--model", str(checkpoint), "--drain-grace-seconds", "0", "--zmq-port")
    asked = {"do": "act", "rows": rows, "options": {"seed": 3}}
    with served(*arguments, "0", **key) as server:
        port = zmq_port(server)
        with (
            start_client("groot_client.py", port) as stranger,
            start_client("groot_client.py", port, key["SORL_API_KEY"]) as ask,
        ):
            expected = "Server error: unauthorized: expected api_token with this server's key"
            assert stranger(asked)["error"] == stranger({"do": "about"})["error"] == expected
            before = ask(asked)["action"]
            server.process.send_signal(signal.SIGTERM)
            assert server.end() == 0
            assert ask({"do": "impatient_ping", "timeout_ms": 200}) is False
            with served(*arguments, str(port), **key):
                assert ask({"do": "impatient_ping", "timeout_ms": 60_000}) is True
                assert ask(asked)["action"] == before
