"""Requests with committed actions, through protocols, the recorder and its replay.

The policy answers with chunks of h = 4 actions. In one of its two forms it takes up to two of them as an input.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kernels.backend import SampleBatch
from kernels.reference import ReferenceBackend
from policy import load_policy, save_policy, with_prefix
from service.protocol import decode_array, encode_array
from service.recording import read_recording
from service.recording.replay import main as replay
from tests.client.conftest import array
from tests.policies import random_policy
from tests.service.listening import listening
from tests.service.test_chunks import FIELDS, HIGH, LOW, SEED, M, N, act
from tests.service.web.test_openpi import ask as ask_openpi
from tests.service.web.test_openpi import session, unpack

pytestmark = pytest.mark.anyio

Rows = Callable[[int], list[list[float]]]


@pytest.fixture(params=[0, 2], ids=["plain", "prefixes"])
def policy_file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "chunked.safetensors"
    limits = {"action_low": tuple(LOW.tolist()), "action_high": tuple(HIGH.tolist())}
    fields = {"name": "chunked", "obs_dim": 6, "action_horizon": 4, "prefix_max": request.param, "coherence": 0.25}
    save_policy(random_policy(3, **fields, **limits), path)
    return path


def committed_actions(rows: int, d: int) -> np.ndarray:
    """(B, d, 3) within the limits, in environment units."""
    return np.random.default_rng(d).uniform(LOW, HIGH, (rows, d, 3)).astype(np.float32)


def expected(path: Path, rows: Any, committed: np.ndarray, coherence: float) -> tuple[np.ndarray, ...]:
    """Each row's chunk (B, 4, 3) in environment units, its value and its spread: the definition, in float64, then
    sorted by hand."""
    policy = load_policy(path)
    spec, observation = policy.spec, torch.tensor(rows, dtype=torch.float32)
    policy_units = 2 * (committed - LOW) / (HIGH - LOW) - 1
    inputs = observation
    if spec.prefix_max:
        actions = np.zeros((len(rows), 2, 3), np.float32)
        actions[:, : min(2, committed.shape[1])] = policy_units[:, :2]
        length = torch.tensor([min(2, committed.shape[1])] * len(rows))
        inputs = with_prefix(spec, observation, torch.tensor(actions), length)
    seeds = [SEED + row for row in range(len(rows))]
    batch = SampleBatch.of(inputs.numpy(), N, M, seeds, return_candidates=True)
    backend = ReferenceBackend(policy, dtype=torch.float64)
    result = backend.sample_and_score(batch)
    chunks, values, spreads = [], [], []
    for row in range(len(rows)):
        candidates = np.array(result.candidates[row], np.float64).reshape(N, 4, 3)  # type: ignore[index]
        q = result.candidate_q[row]  # type: ignore[index]
        distance = [float(np.square(one[: committed.shape[1]] - policy_units[row]).sum()) for one in candidates]
        nearest = sorted(range(N), key=distance.__getitem__)[: max(1, int(np.ceil((1 - coherence) * N)))]
        winner = max(nearest, key=q.__getitem__)
        chunks.append(LOW + (candidates[winner] + 1) / 2 * (HIGH - LOW))
        values.append(q[winner])
        alone = SampleBatch.of(inputs[row : row + 1].numpy(), 1, M, seeds[row], first_candidate=winner)
        spreads.append(backend.sample_and_score(alone).q_std[0])
    return np.array(chunks), np.array(values), np.array(spreads)


@pytest.mark.parametrize("max_batch_rows", [1024, 7], ids=["whole", "in parts"])
@pytest.mark.parametrize("d", [1, 2, 3])
async def test_the_best_of_the_nearest_is_the_answer(
    serve: Any, policy_file: Path, observations: Rows, d: int, max_batch_rows: int
) -> None:
    rows, committed = observations(2), committed_actions(2, d)
    async with serve(model=policy_file, max_batch_rows=max_batch_rows) as client:
        found = {c: await act(client, observation=rows, committed=committed.tolist(), coherence=c) for c in (0, 0.5, 1)}
        default = await act(client, observation=rows, committed=committed.tolist(), return_candidates=True)
        single = await act(client, observation=rows[0], committed=committed[0].tolist(), coherence=0.5)
        body = {"observation": rows, "committed": encode_array(committed), "coherence": 0.5, **FIELDS}
        encoded = (await client.post("/act", json=body)).json()
    for coherence, reply in [*found.items(), (0.25, default)]:
        chunks, values, spreads = expected(policy_file, rows, committed, coherence)
        np.testing.assert_allclose(reply["action"], chunks, atol=2e-5)
        np.testing.assert_allclose(reply["q"], values, atol=2e-5)
        np.testing.assert_allclose(reply["q_std"], spreads, atol=2e-5)
    for row in range(2):
        index = default["candidates"][row].index(default["action"][row])
        assert default["candidate_q"][row][index] == default["q"][row]
    assert single["action"] == found[0.5]["action"][0]
    np.testing.assert_array_equal(decode_array(encoded["action"], "action"), np.float32(found[0.5]["action"]))
    assert found[0]["action"] != found[1]["action"]


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"committed": [[0.0, 0.0]]}, "committed", "expected shape (d, 3), d from 1 to 3 (action_horizon - 1"),
        ({"committed": [[0.0] * 3] * 4}, "committed", "d from 1 to 3"),
        ({"committed": [[[0.0] * 3]] * 2}, "committed", "found (2, 1, 3)"),
        ({"committed": []}, "committed", "none of them 0"),
        ({"committed": [[]]}, "committed", "none of them 0"),
        ({"committed": [0.0, 0.0, 0.0]}, "committed", "shape (d, action_dim)"),
        ({"committed": [[0.0] * 3, [0.0] * 2]}, "committed", "every row to be a list of 3 numbers"),
        ({"committed": [[[0.0] * 3], [[0.0] * 3, [0.0] * 3]]}, "committed", "as many actions in every row"),
        ({"committed": [[0.0, 1e39, 0.0]]}, "committed", "finite numbers within float32"),
        ({"committed": [["0", 0.0, 0.0]]}, "committed", "numbers"),
        ({"committed": "now"}, "committed", "a list of actions"),
        ({"committed": [[0.0] * 3], "coherence": 1.5}, "coherence", "less than or equal to 1"),
        ({"committed": [[0.0] * 3], "coherence": float("nan")}, "coherence", "it should be a finite number"),
        ({"committed": [[0.0] * 3], "coherence": True}, "coherence", "valid number"),
        ({"coherence": 0.5}, "coherence", "it counts with `committed` only"),
    ],
)
async def test_what_is_refused(
    serve: Any, policy_file: Path, observations: Rows, fields: dict[str, Any], field: str, message: str
) -> None:
    async with serve(model=policy_file) as client:
        body = json.dumps({"observation": observations(1)[0], **FIELDS, **fields})
        response = await client.post("/act", content=body, headers={"Content-Type": "application/json"})
        problem = response.json()
    if message == "it should be a finite number" and problem.get("field") != field:
        assert response.status_code == 422  # NaN is no JSON
        return
    assert (response.status_code, problem["field"]) == (422, field)
    assert message in problem["detail"]


async def test_a_policy_of_single_actions_takes_none(serve: Any, observations: Rows) -> None:
    async with serve() as client:
        response = await client.post("/act", json={"observation": observations(1)[0], "committed": [[0.0] * 3]})
    assert (response.status_code, response.json()["field"]) == (422, "committed")
    assert "answers with single actions" in response.json()["detail"]


async def test_others_in_the_batch_get_what_they_get_alone(serve: Any, policy_file: Path, observations: Rows) -> None:
    rows = observations(2)
    async with serve(model=policy_file) as client:
        alone = await act(client, observation=rows[0])
        both = await act(client, observation=rows, committed=committed_actions(2, 1).tolist(), coherence=0)
        again = await act(client, observation=rows[0])
    assert alone["action"] == again["action"]
    assert np.shape(both["action"]) == (2, 4, 3)


async def test_open_inference_and_openpi(serve: Any, make_settings: Any, policy_file: Path, observations: Rows) -> None:
    (row,), committed = observations(1), committed_actions(1, 2)
    chunk = expected(policy_file, [row], committed, 0.5)[0][0]
    inputs = [
        {"name": "observation", "shape": [6], "datatype": "FP32", "data": row},
        {"name": "committed", "shape": [2, 3], "datatype": "FP32", "data": committed.reshape(-1).tolist()},
    ]
    body = {"inputs": inputs, "parameters": {**FIELDS, "coherence": 0.5}}
    async with serve(model=policy_file) as client:
        reply = (await client.post("/v2/models/chunked/infer", json=body)).json()
    outputs = {output["name"]: np.reshape(output["data"], output["shape"]) for output in reply["outputs"]}
    np.testing.assert_allclose(outputs["action"], chunk, atol=2e-5)
    async with listening(make_settings(model=policy_file)) as server, session(server.port) as (robot, metadata):
        assert (metadata["prefix_max"], metadata["coherence"]) == (load_policy(policy_file).spec.prefix_max, 0.25)
        reply = unpack(await ask_openpi(robot, observation=row, committed=array(committed[0]), coherence=0.5, **FIELDS))
    np.testing.assert_allclose(reply["actions"], chunk, atol=2e-5)


async def test_what_was_recorded_is_replayed(
    serve: Any, policy_file: Path, observations: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, committed = observations(2), committed_actions(2, 3)
    async with serve(model=policy_file, record_dir=tmp_path / "recordings") as client:
        await act(client, observation=rows, committed=committed.tolist(), coherence=0.75)
        await act(client, observation=rows)
    (path,) = (tmp_path / "recordings").iterdir()
    assert replay([str(path), "--tolerance", "0"]) == 0
    assert "4 equal to the bit" in capsys.readouterr().out
    first, second = read_recording(path).records
    assert second.request.commitment is None
    assert first.request.commitment is not None
    np.testing.assert_allclose(first.request.commitment.actions, 2 * (committed - LOW) / (HIGH - LOW) - 1, atol=1e-6)

    lines = path.read_text().splitlines()
    record = json.loads(lines[1])
    path.write_text("\n".join([lines[0], json.dumps(record | {"coherence": 0.0})]) + "\n")
    assert replay([str(path)]) == 1  # other candidates win
    path.write_text("\n".join([lines[0], json.dumps(record | {"committed": encode_array(committed[:, :, :2])})]) + "\n")
    assert replay([str(path)]) == 2
    assert "does not fit 'chunked'" in capsys.readouterr().err
