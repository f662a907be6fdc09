"""Windows agree with a loop in plain Python floats, never cross an episode's end, and are transitions where h = 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.formats.raw_dataset import Columns, DatasetError
from training.data.windows import windows

Row = dict[str, Any]
ACTION_DIM = 2


def columns_of(rows: list[Row]) -> Columns:
    """Transition t has the observation t, the next observation t + 0.5 and the actions 10 t, 10 t + 1."""
    number = np.arange(len(rows), dtype=np.float32)[:, None]
    return Columns(
        observations=number,
        actions=10 * number + np.arange(ACTION_DIM, dtype=np.float32),
        rewards=np.array([row["reward"] for row in rows]),
        masks=np.array([row["mask"] for row in rows]),
        next_observations=number + np.float32(0.5),
        ends=np.array([row["end"] for row in rows], bool),
    )


def by_loop(rows: list[Row], h: int, gamma: float) -> list[Row]:
    """What follows if a chunk is executed from each row in turn, as a simulator would: action by action."""
    found = []
    for start in range(len(rows)):
        total, weight, going, whole = 0.0, 1.0, True, True
        actions: list[float] = []
        for offset in range(h):
            t = start + offset
            if t >= len(rows) or (offset and rows[t - 1]["end"]):
                whole = False
                break
            actions += [10.0 * t, 10.0 * t + 1]
            if going:
                total += weight * rows[t]["reward"]
            weight *= gamma
            going = going and rows[t]["mask"] == 1
        if whole:
            last = start + h - 1
            found.append(
                {
                    "observation": float(start),
                    "actions": actions,
                    "reward": total,
                    "mask": float(going),
                    "next": last + 0.5,
                    "end": rows[last]["end"],
                }
            )
    return found


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "reward": st.floats(-100, 100, allow_nan=False),
            "mask": st.sampled_from([1.0, 1.0, 1.0, 0.0]),
            "end": st.sampled_from([False, False, False, True]),
        }
    ),
    min_size=1,
    max_size=40,
)


@given(ROWS, st.integers(1, 7), st.floats(0, 0.999))
def test_windows_agree_with_a_loop(rows: list[Row], h: int, gamma: float) -> None:
    expected = by_loop(rows, h, gamma)
    if not expected:
        with pytest.raises(DatasetError, match=f"^data: no episode has the {h} transitions"):
            windows("data", columns_of(rows), h, gamma)
        return
    found = windows("data", columns_of(rows), h, gamma)
    assert found.observations.ravel().tolist() == [window["observation"] for window in expected]
    assert found.actions.tolist() == [window["actions"] for window in expected]
    assert found.masks.tolist() == [window["mask"] for window in expected]
    assert found.next_observations.ravel().tolist() == [window["next"] for window in expected]
    assert found.ends.tolist() == [window["end"] for window in expected]
    np.testing.assert_allclose(found.rewards, [window["reward"] for window in expected], rtol=1e-12, atol=1e-12)


@given(ROWS, st.floats(0, 0.999))
def test_windows_of_one_action_are_the_transitions(rows: list[Row], gamma: float) -> None:
    columns = columns_of(rows)
    columns = columns._replace(rewards=columns.rewards.astype(np.float32))
    for found, expected in zip(windows("data", columns, 1, gamma), columns, strict=True):
        assert found.astype(expected.dtype).tobytes() == expected.tobytes()


def test_nothing_counts_after_the_task_has_ended() -> None:
    rows = [{"reward": reward, "mask": mask, "end": False} for reward, mask in ((1.0, 1), (2.0, 0), (64.0, 1))]
    found = windows("data", columns_of(rows), 3, 0.5)
    assert (found.rewards.tolist(), found.masks.tolist()) == ([2.0], [0.0])


def test_too_short_episodes_are_named() -> None:
    rows = [{"reward": 0.0, "mask": 1.0, "end": row in (3, 5)} for row in range(6)]
    with pytest.raises(DatasetError, match=r"^arm.hdf5: .* 5 transitions of --action-horizon; the longest has 4$"):
        windows("arm.hdf5", columns_of(rows), 5, 0.9)
