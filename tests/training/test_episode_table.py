"""Episode tables are read back exactly, also after a power cut."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from training.episode_table import COLUMNS, EpisodeRow, EpisodeTableError, append_rows, read_rows, write_rows
from training.episodes import EpisodeResult, Job

RESULT = EpisodeResult(
    job=Job(10_003, 8, 4, select="worst"),
    success=True,
    steps=37,
    first_q=-0.1,
    initial_state=(1.0, 2.5),
    mean_q=-1 / 3,
    discounted_return=-30.25,
    mean_return=-1e-17,
    crashed=False,
    seconds=0.25,
    execute=5,
    jerk=103.5,
)
ROW = EpisodeRow.of(RESULT)


def test_rows_are_read_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "episodes.csv"
    append_rows(path, [ROW])
    append_rows(path, [replace(ROW, episode=5), replace(ROW, select="best")])
    assert read_rows(path) == [ROW, replace(ROW, episode=5), replace(ROW, select="best")]
    write_rows(path, [ROW])
    assert read_rows(path) == [ROW]


def test_a_row_has_the_fields_of_its_result() -> None:
    assert (ROW.num_candidates, ROW.num_steps, ROW.episode, ROW.select) == (8, 4, 10_003, "worst")
    assert (ROW.success, ROW.steps, ROW.crashed) == (1, 37, 0)
    assert (ROW.execute, ROW.jerk, RESULT.calls) == (5, 103.5, 8)
    assert ROW.initial_state != EpisodeRow.of(replace(RESULT, initial_state=(1.0, 2.6))).initial_state
    # The columns of the first release come first, so that programs that read them by position keep working.
    assert COLUMNS[:6] == ("num_candidates", "num_steps", "episode", "success", "steps", "first_q")


def test_an_incomplete_last_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "episodes.csv"
    write_rows(path, [ROW, ROW])
    path.write_text(path.read_text()[:-20])
    assert read_rows(path) == [ROW]
    append_rows(path, [replace(ROW, episode=6)])
    assert read_rows(path) == [ROW, replace(ROW, episode=6)]


def test_a_table_from_before_there_were_chunks(tmp_path: Path) -> None:
    """It is read, and grows in its own columns; episodes of chunks are refused, as it cannot say so."""
    path = tmp_path / "episodes.csv"
    older = COLUMNS[: COLUMNS.index("execute")]
    cells = {name: str(value) for name, value in asdict(ROW).items()}
    path.write_text(",".join(older) + "\n" + ",".join(cells[name] for name in older) + "\n")
    single = replace(ROW, execute=1)
    append_rows(path, [replace(single, episode=6)])
    assert path.read_text().splitlines()[2].count(",") == len(older) - 1
    first, second = read_rows(path)
    assert (first.episode, second.episode) == (ROW.episode, 6)
    for row in (first, second):
        assert math.isnan(row.jerk)
        assert replace(row, episode=ROW.episode, jerk=ROW.jerk) == single
    with pytest.raises(EpisodeTableError, match="no column 'execute'"):
        append_rows(path, [ROW])
    assert len(read_rows(path)) == 2


def test_errors_name_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "episodes.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(EpisodeTableError, match="header must be num_candidates"):
        read_rows(path)
    write_rows(path, [ROW, ROW])
    path.write_text(path.read_text().replace("10003", "soon", 1))
    with pytest.raises(EpisodeTableError, match="line 2"):
        read_rows(path)
