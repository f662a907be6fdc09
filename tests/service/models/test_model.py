"""What /models says of a policy's measurements."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from policy import Measurement

pytestmark = pytest.mark.anyio

CHEAP, BEST = Measurement(1, 4, 0.9, 0.8, 0.95, 50), Measurement(4, 4, 1.0, 0.93, 1.0, 50)
AS_WELL, WORSE = Measurement(4, 8, 1.0, 0.93, 1.0, 50), Measurement(64, 4, 0.4, 0.28, 0.54, 50)
BAD, NONE_CHEAPER = Measurement(1, 8, 0.1, 0.04, 0.21, 50), Measurement(8, 1, 0.1, 0.04, 0.21, 50)


async def test_measured_cells_say_whether_a_cheaper_one_measured_as_well_or_better(serve: Any, write: Any) -> None:
    cells = (CHEAP, BAD, BEST, AS_WELL, NONE_CHEAPER, WORSE)
    async with serve(model=write("measured", 1, frontier=cells)) as client:
        model = (await client.get("/models/measured")).json()
    dominated = {BAD, AS_WELL, WORSE}
    assert model["frontier"] == [asdict(cell) | {"dominated": cell in dominated} for cell in cells]


async def test_a_dominated_cell_is_granted_to_who_asks_for_it(serve: Any, write: Any, observations: Any) -> None:
    async with serve(model=write("measured", 1, frontier=(CHEAP, BEST, WORSE))) as client:
        body = {"observation": observations(1)[0], "num_candidates": 64, "num_steps": 4}
        reply = (await client.post("/act", json=body)).json()
    assert (reply["num_candidates"], reply["num_steps"], reply["degraded"]) == (64, 4, False)


async def test_an_unmeasured_policy_has_an_empty_frontier(serve: Any) -> None:
    async with serve() as client:
        assert (await client.get("/models/small")).json()["frontier"] == []
