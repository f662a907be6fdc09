"""Triton's client, unmodified, over HTTP and gRPC: what it gets is what POST /act answers."""

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
TRANSPORTS = pytest.mark.parametrize("transport", ["http", "grpc"])
STATUS = {
    "401": "UNAUTHENTICATED", "404": "NOT_FOUND", "409": "FAILED_PRECONDITION", "422": "INVALID_ARGUMENT"
}  # fmt: skip


def act(server: Process, **fields: Any) -> dict[str, Any]:
    status, reply = server.request("POST", "/act", fields)
    assert status == 200, reply
    return reply


def warm_port(server: Process, transport: str) -> int:
    """The port for `transport`, once the server is ready."""
    server.wait_for("ready: ")
    found = re.search(r"listening on grpc://127\.0\.0\.1:(\d+)", "".join(server.log))
    assert found
    return server.port if transport == "http" else int(found[1])


def said(status: str, transport: str) -> str:
    """An HTTP status as `transport` has it."""
    return status if transport == "http" else f"StatusCode.{STATUS[status]}"


@TRANSPORTS
def test_it_gets_what_act_answers(checkpoint: Path, observations: Rows, start_client: Any, transport: str) -> None:
    rows = observations(3)
    with (
        served("--model", str(checkpoint), "--grpc-port", "0") as server,
        start_client("triton_client.py", transport, warm_port(server, transport)) as ask,
    ):
        about = ask({"do": "about"})
        version = act(server, observation=rows[0])["model_version"]
        assert [about[name] for name in ("live", "ready", "model", "other_model")] == [True, True, True, False]
        config = about["config"]
        if transport == "grpc":  # JSON has 64-bit integers as text there
            about["metadata"]["inputs"][0]["shape"] = [int(size) for size in about["metadata"]["inputs"][0]["shape"]]
            about["index"], config = about["index"]["models"], config["config"]
        assert about["metadata"]["inputs"] == [{"name": "observation", "datatype": "FP32", "shape": [-1, 6]}]
        assert [output["name"] for output in about["metadata"]["outputs"]][:2] == ["action", "q"]
        assert config["max_batch_size"] == 64
        assert [(tensor["name"], tensor["data_type"]) for tensor in config["input"]] == [("observation", "TYPE_FP32")]
        assert config["parameters"]["max_candidates"] == {"string_value": "4096"}
        assert [(model["name"], model["version"]) for model in about["index"]] == [("small", version)]

        options = {"num_candidates": 5, "num_steps": 3, "seed": 7, "temperature": 0.5}
        expected = act(server, observation=rows, **options)
        for binary in (True, False):
            answer = ask({"do": "infer", "observation": rows, "binary": binary, "parameters": options})
            outputs = answer["outputs"]
            assert [outputs[name] for name in ("action", "q", "q_std")] == [
                expected[name] for name in ("action", "q", "q_std")
            ]
            assert (outputs["num_candidates"], outputs["num_steps"], outputs["seed"]) == ([5] * 3, [3] * 3, [7, 8, 9])
            assert answer["dtypes"]["action"] == "float32"
            assert answer["model_version"] == version
        single = ask({"do": "infer", "observation": rows[1], "parameters": {**options, "seed": 8}})
        assert single["outputs"]["action"] == expected["action"][1]
        chosen = ask(
            {
                "do": "infer", "observation": rows, "dtype": "float64", "outputs": ["candidate_q", "action"],
                "request_id": "r-1", "model_version": version, "priority": 1, "timeout": 60_000_000,
                "parameters": options,
            }
        )  # fmt: skip
        assert list(chosen["outputs"]) == ["candidate_q", "action"]
        assert chosen["outputs"]["action"] == expected["action"]
        assert [max(values) for values in chosen["outputs"]["candidate_q"]] == expected["q"]
        assert chosen["id"] == "r-1"

        for wrong, status, error in [
            ({"observation": rows[0][:4]}, "422", "invalid_request: observation: expected 6 numbers a row"),
            ({"observation": rows[0], "model": "other"}, "404", "unknown_model: model: 'other' is not served here"),
            ({"observation": rows[0], "outputs": ["torque"]}, "422", "invalid_request: outputs: 'torque'"),
            ({"observation": rows[0], "parameters": {"steps": 4}}, "422", "invalid_request: 'steps' is not"),
            ({"observation": rows[0], "model_version": "1"}, "409", "version_gone: model_version"),
        ]:
            answer = ask({"do": "infer", **wrong})
            assert answer["status"] == said(status, transport), answer
            assert answer["error"].startswith(error), answer
        if transport == "http":
            compressed = {"observation": rows[0], "request_compression_algorithm": "gzip"}
            assert ask({"do": "infer", **compressed})["status"] == "415"


@TRANSPORTS
def test_500_in_a_row_and_50_at_once(checkpoint: Path, observations: Rows, start_client: Any, transport: str) -> None:
    (row,) = observations(1)
    with (
        served("--model", str(checkpoint), "--grpc-port", "0") as server,
        start_client("triton_client.py", transport, warm_port(server, transport)) as ask,
    ):
        answers = ask({"do": "many", "observation": row, "seeds": list(range(500))})
        assert len(answers) == 500
        for seed in (0, 250, 499):
            assert answers[seed]["action"] == act(server, observation=row, seed=seed)["action"]
        at_once = ask({"do": "asynchronous", "observation": row, "seeds": list(range(50))})
        assert [answer["action"] for answer in at_once] == [answer["action"] for answer in answers[:50]]


@TRANSPORTS
def test_a_key_is_asked_for_and_a_restarted_server_is_found_again(
    checkpoint: Path, observations: Rows, start_client: Any, transport: str
) -> None:
    (row,) = observations(1)
    ask_for = {"do": "infer", "observation": row, "parameters": {"seed": 3}}
    arguments = ("--model", str(checkpoint), "--drain-grace-seconds", "0", "--grpc-port")
    key = {"SORL_API_KEY": "0123456789abcdef0123456789abcdef"}
    header = "Authorization" if transport == "http" else "authorization"
    with served(*arguments, "0", **key) as server:
        port = warm_port(server, transport)
        with start_client("triton_client.py", transport, port) as ask:
            assert ask(ask_for)["status"] == said("401", transport)
            ask_for["headers"] = {header: f"Bearer {key['SORL_API_KEY']}"}
            before = ask(ask_for)["outputs"]
            server.process.send_signal(signal.SIGTERM)
            assert server.end() == 0
            assert "error" in ask(ask_for)
            grpc_port = "0" if transport == "http" else str(port)
            with served(*arguments, grpc_port, port=server.port, **key) as restarted:
                restarted.wait_for("ready: small")
                ask({"do": "reconnect"})
                assert ask(ask_for)["outputs"] == before


@TRANSPORTS
def test_the_lines_a_user_changes(run_client: Any, tmp_path: Path, transport: str) -> None:
    with served("--grpc-port", "0") as server:
        port = warm_port(server, transport)
        changes = {"tritonclient.http": f"tritonclient.{transport}", "localhost:8000": f"127.0.0.1:{port}"}
        program = tmp_path / "snippet.py"
        program.write_text(snippet("Triton and KServe", changes))
        budget = {"num_candidates": 32, "num_steps": 4, "seed": 7}
        assert run_client(program) == act(server, observation=[[0.0] * 28], **budget)["action"]
