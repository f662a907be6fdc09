"""openpi's client, unmodified, against `sorl-serve`: what it gets is what POST /act answers."""

from __future__ import annotations

import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policy import save_policy
from tests.policies import random_policy
from tests.service.clients.snippets import snippet
from tests.service.process import Process, served

pytestmark = pytest.mark.slow

Rows = Callable[[int], list[list[float]]]

OPENPI_PORT = r"listening on ws://127\.0\.0\.1:(\d+)"


def act(server: Process, **fields: Any) -> dict[str, Any]:
    status, reply = server.request("POST", "/act", fields)
    assert status == 200, reply
    return reply


def test_openpis_client_at_its_own_port(checkpoint: Path, observations: Rows, start_client: Any) -> None:
    row = observations(1)[0]
    budget = {"num_candidates": 5, "num_steps": 3, "seed": 7, "temperature": 0.5}
    with served("--model", str(checkpoint), "--openpi-port", "0") as server:
        port = server.wait_for(OPENPI_PORT)
        with start_client("openpi_policy.py", "127.0.0.1", port) as ask:
            metadata = ask({"do": "connect"})  # it may come before warm-up has ended, and is held
            expected = act(server, observation=row, **budget)
            assert (metadata["model"], metadata["obs_dim"], metadata["action_dim"]) == ("small", 6, 3)
            assert (metadata["model_version"], metadata["action_horizon"]) == (expected["model_version"], 1)

            for name in ("observation/state", "observation", "state"):
                reply = ask({"do": "infer", "observation": row, "name": name, **budget})
                assert reply["actions"] == {"array": [expected["action"]], "dtype": "float32"}
                assert {field: reply[field] for field in ("q", "q_std", "num_candidates", "num_steps", "seed")} == {
                    field: expected[field] for field in ("q", "q_std", "num_candidates", "num_steps", "seed")
                }
            step = ask({"do": "brokered", "observation": row, **budget})
            assert step["actions"]["array"] == expected["action"]
            assert step["server_timing"]["prev_total_ms"] > 0

            actions = ask({"do": "many", "observation": row, "seeds": list(range(500))})
            assert len(actions) == 500
            for seed in (0, 250, 499):
                assert actions[seed] == [act(server, observation=row, seed=seed)["action"]]

            wrong = ask({"do": "infer", "observation": row[1:]})
            assert wrong["raised"] == "RuntimeError"
            assert "invalid_request: observation: expected 6 numbers a row" in wrong["message"]
            assert "Traceback" not in wrong["message"]
            assert ask({"do": "infer", "observation": row})["raised"].startswith("ConnectionClosed")
            ask({"do": "connect"})
            late = ask({"do": "infer", "observation": row, "deadline_ms": 0.001, "on_late": "reject"})
            assert "deadline_exceeded: " in late["message"]
            assert ask({"do": "infer", "observation": row, **budget})["actions"]["array"] == [expected["action"]]


def test_openpis_broker_hands_out_a_chunk_action_by_action(
    tmp_path: Path, observations: Rows, start_client: Any
) -> None:
    """One call of the server for every four ticks of the robot."""
    row = observations(1)[0]
    policy = random_policy(3, name="chunked", obs_dim=6, action_horizon=4)
    save_policy(policy, tmp_path / "chunked.safetensors")
    with served("--model", str(tmp_path / "chunked.safetensors"), "--openpi-port", "0") as server:
        port = server.wait_for(OPENPI_PORT)
        with start_client("openpi_policy.py", "127.0.0.1", port) as ask:
            assert ask({"do": "connect"})["action_horizon"] == 4
            actions = ask({"do": "ticks", "observation": row, "count": 6, "seed": 7})
            chunk = act(server, observation=row, seed=7)["action"]
            assert np.shape(chunk) == (4, 3)
            assert actions == [*chunk, *chunk[:2]]
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as response:
                lines = response.read().decode().splitlines()
    counts = [line for line in lines if line.startswith("sorl_requests_total") and 'protocol="openpi"' in line]
    assert sum(float(line.split()[-1]) for line in counts) == 2


def test_a_key_is_asked_for_and_a_restarted_server_is_found_again(
    checkpoint: Path, observations: Rows, start_client: Any
) -> None:
    row = observations(1)[0]
    arguments = ("--model", str(checkpoint), "--drain-grace-seconds", "0")
    key = {"SORL_API_KEY": "0123456789abcdef0123456789abcdef"}
    with (
        served(*arguments, **key) as server,
        start_client("openpi_policy.py", f"ws://127.0.0.1:{server.port}/openpi") as ask,
    ):
        server.wait_for("ready: small")
        for wrong in (None, "wrong"):
            refused = ask({"do": "connect", "key": wrong})
            assert refused["raised"] == "InvalidStatus"
            assert "401" in refused["message"]
        right = {"do": "connect", "key": key["SORL_API_KEY"]}
        ask(right)
        before = ask({"do": "infer", "observation": row, "seed": 3})["actions"]
        server.process.send_signal(signal.SIGTERM)  # while its session is idle
        assert server.end() == 0
        assert not any("Traceback" in line for line in server.log)
        assert ask({"do": "infer", "observation": row, "seed": 3})["raised"].startswith("ConnectionClosed")
        assert ask(right)["raised"] == "ConnectionRefusedError"
        with served(*arguments, port=server.port, **key) as restarted:
            restarted.wait_for("ready: small")
            ask(right)
            assert ask({"do": "infer", "observation": row, "seed": 3})["actions"] == before


def test_the_lines_a_user_changes(run_client: Any, tmp_path: Path) -> None:
    with served("--openpi-port", "0") as server:
        port = server.wait_for(OPENPI_PORT)
        server.wait_for("ready: cube-single")
        program = tmp_path / "snippet.py"
        program.write_text(snippet("openpi", {'"localhost", port=8001': f'"127.0.0.1", port={port}'}))
        budget = {"num_candidates": 32, "num_steps": 4, "seed": 7}
        assert run_client(program) == [act(server, observation=[0.0] * 28, **budget)["action"]]
