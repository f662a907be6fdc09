"""A policy that knows the parts of its observation by name: what it takes, and what /models says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from policy import ObservationKey

pytestmark = pytest.mark.anyio

Rows = Callable[[int], list[list[float]]]
KEYS = (ObservationKey("joint_pos", 4), ObservationKey("gripper", 1), ObservationKey("state", 1))


def parts(rows: Any) -> dict[str, Any]:
    """Six numbers a row as the parts of `KEYS`, in another order than theirs."""
    if isinstance(rows[0], list):
        return {name: [parts(row)[name] for row in rows] for name in ("state", "gripper", "joint_pos")}
    return {"state": rows[5:], "gripper": rows[4:5], "joint_pos": rows[:4]}


async def ask(client: httpx.AsyncClient, **fields: Any) -> Any:
    response = await client.post("/act", json={"seed": 5, "num_candidates": 4, **fields})
    return response.json()


@pytest.mark.parametrize("rows", [1, 3])
async def test_parts_are_put_together_in_the_policys_order(
    serve: Any, write: Any, observations: Rows, rows: int
) -> None:
    row: Any = observations(rows) if rows > 1 else observations(1)[0]
    async with serve(model=write("keyed", 1, observation_keys=KEYS)) as client:
        plain = await ask(client, observation=row)
        assert (await ask(client, observation=parts(row)))["action"] == plain["action"]
        for separator in "/.":
            fields = {f"observation{separator}{name}": part for name, part in parts(row).items()}
            assert (await ask(client, **fields))["action"] == plain["action"]
        assert (await ask(client, state=row))["action"] == plain["action"]
        history = {name: [[part]] if rows == 1 else [[item] for item in part] for name, part in parts(row).items()}
        batch = await ask(client, observation=history)
        assert batch["action"] == ([plain["action"]] if rows == 1 else plain["action"])


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"gripper": ...}, "observation/gripper", "missing: expected joint_pos 4, gripper 1, state 1"),
        ({"wrist": [1]}, "observation/wrist", "'keyed' has no such part: expected joint_pos 4, gripper 1, state 1"),
        ({"joint_pos": [1.0] * 3}, "observation/joint_pos", "expected 4 numbers a row, found 3"),
        ({"joint_pos": ..., "gripper": ...}, "observation", "6 numbers a row (obs_dim of 'keyed': joint_pos 4,"),
        ({"joint_pos": ..., "state": ...}, "observation/joint_pos", "it is missing"),
        ({"x" * 10_000: [1]}, "observation/" + "x" * 10_000, "no such part"),
    ],
)
async def test_what_is_wrong_with_a_part_is_named(
    serve: Any, write: Any, observations: Rows, change: dict[str, Any], field: str, says: str
) -> None:
    given = {name: part for name, part in (parts(observations(1)[0]) | change).items() if part is not ...}
    async with serve(model=write("keyed", 1, observation_keys=KEYS)) as client:
        problem = await ask(client, observation=given)
    assert (problem["code"], problem["field"]) == ("invalid_request", field)
    assert says in problem["detail"]
    assert len(problem["detail"]) < 400


async def test_a_policy_without_keys_takes_one_vector(serve: Any, observations: Rows) -> None:
    row = observations(1)[0]
    async with serve() as client:
        problem = await ask(client, observation=parts(row))
        assert (problem["code"], problem["field"]) == ("invalid_request", "observation")
        assert "one vector of 6 numbers (obs_dim of 'small'" in problem["detail"]
        assert "'gripper', 'joint_pos', 'state'" in problem["detail"]
        plain = await ask(client, observation=row)
        assert (await ask(client, observation={"state": row}))["action"] == plain["action"]


async def test_models_lists_the_parts_in_order(serve: Any, write: Any) -> None:
    write("plain", 2)
    path = write("keyed", 1, observation_keys=KEYS)
    async with serve(model=path.parent, default_model="keyed") as client:
        keyed = (await client.get("/models/keyed")).json()
        assert (await client.get("/models/plain")).json()["observation_keys"] == []
    assert keyed["observation_keys"] == [
        {"name": "joint_pos", "size": 4},
        {"name": "gripper", "size": 1},
        {"name": "state", "size": 1},
    ]


@pytest.mark.parametrize("on_late", ["degrade", "reject"])
async def test_a_deadline_that_nothing_meets_is_told_its_unit(serve: Any, observations: Rows, on_late: str) -> None:
    """0.02 of whoever thinks in seconds."""
    async with serve() as client:
        row = observations(1)[0]
        problem = await ask(client, observation=row, num_steps=8, deadline_ms=0.0002, on_late=on_late)
    assert (problem["code"], problem["status"]) == ("deadline_exceeded", 504)
    assert problem["detail"].endswith("(deadline_ms was 0.0002, in milliseconds)")
