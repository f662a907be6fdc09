"""Nothing is measured twice, and episodes that cannot be paired are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from training.episodes import EpisodeResult, Job
from training.results.errors import RecordError
from training.results.protocol import Cell, Seeds
from training.results.record import Record

FACTS = {"policy_sha256": "a" * 64, "task": "task", "engine": "reference/fp32/cpu"}
SEEDS = Seeds(5, 3)
CELL = Cell(2, 4)


def result(episode: int, cell: Cell = CELL, success: bool = True, state: float | None = None) -> EpisodeResult:
    return EpisodeResult(
        job=Job(episode, cell.num_candidates, cell.num_steps, select=cell.select),
        success=success,
        steps=9,
        first_q=-1.0,
        initial_state=(float(episode) if state is None else state,),
        mean_q=-2.0,
        discounted_return=-3.0,
        mean_return=-4.0,
        crashed=False,
        seconds=0.1,
    )


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record.open_or_create(tmp_path / "record", FACTS)


def test_recorded_episodes_are_not_missing(record: Record) -> None:
    assert [job.episode for job in record.missing(CELL, SEEDS)] == [5, 6, 7]
    record.add([result(7), result(5)])
    assert record.missing(CELL, SEEDS) == [Job(6, 2, 4)]
    assert record.rows(CELL, SEEDS) is None
    record.add([result(6, success=False)])
    rows = record.rows(CELL, SEEDS)
    assert rows is not None
    assert [(row.episode, row.success) for row in rows] == [(5, 1), (6, 0), (7, 1)]
    again = Record(record.folder)
    assert again.rows(CELL, SEEDS) == rows


def test_cells_of_different_rules_are_different(record: Record) -> None:
    record.add([result(episode) for episode in SEEDS.range])
    assert record.missing(replace(CELL, select="worst"), SEEDS) == [
        Job(episode, 2, 4, select="worst") for episode in SEEDS.range
    ]


def test_the_first_result_of_an_episode_counts(record: Record) -> None:
    record.add([result(5), result(6), result(7)])
    record.add([result(5, success=False)])
    for same in (record, Record(record.folder)):
        rows = same.rows(CELL, SEEDS)
        assert rows is not None
        assert rows[0].success == 1


def test_an_episode_must_begin_in_the_same_state_in_every_cell(record: Record) -> None:
    record.add([result(5)])
    with pytest.raises(RecordError, match="episode 5 began in another state"):
        record.add([result(5, cell=Cell(1, 1), state=9.0)])


def test_two_episodes_must_not_begin_in_the_same_state(record: Record) -> None:
    record.add([result(5)])
    with pytest.raises(RecordError, match="episodes 5 and 6 began in the same state"):
        record.add([result(6, state=5.0)])


def test_a_record_is_not_continued_with_another_engine(record: Record) -> None:
    Record.open_or_create(record.folder, FACTS)
    with pytest.raises(RecordError, match="engine is 'reference/fp32/cpu' there and 'cpu/bf16' here"):
        Record.open_or_create(record.folder, FACTS | {"engine": "cpu/bf16"})


def test_small_tables_are_read_back(record: Record) -> None:
    assert record.table("shortcut") == []
    record.write_table("shortcut", [{"num_steps": 1, "to_finest": 0.5}, {"num_steps": 8, "to_finest": 0.0}])
    assert record.table("shortcut")[0] == {"num_steps": "1", "to_finest": "0.5"}
    assert record.has_shortcut((1, 8))
    assert not record.has_shortcut((1, 4))


def test_errors_name_the_damage(record: Record, tmp_path: Path) -> None:
    (record.folder / "episodes.csv").write_text("nonsense\n")
    with pytest.raises(RecordError, match="header must be"):
        Record(record.folder)
    with pytest.raises(RecordError, match="can't be read"):
        Record(tmp_path / "nothing")
