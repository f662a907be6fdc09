"""`Record`: all measurements of one policy file, kept so that nothing is measured twice.

A folder named by the policy's sha256 holds policy.json (facts of the policy, and its engine), episodes.csv (one row per
episode, appended as episodes end), latency.csv and shortcut.csv. Budget, selection rule and seed identify an episode.
All else is fixed: the policy's temperature, a fresh seed for every (episode, step), default horizon and termination.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from training.episode_table import EpisodeRow, EpisodeTableError, append_rows, read_rows
from training.episodes import EpisodeResult, Job
from training.files import atomic_path, write_json
from training.results.errors import RecordError
from training.results.protocol import Cell, Protocol, Seeds

Row = dict[str, Any]
_CONDITIONS = ("policy_sha256", "task", "engine")


UNSAID: Row = {"action_horizon": 1, "temperature": 1.0}
"""Facts that records made before there was another value do not state."""


class Record:
    """The measurements in `folder`, of one policy.

    Raises:
        RecordError: a file is damaged or contradicts itself.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.facts: Row = UNSAID | json.loads((folder / "policy.json").read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise RecordError(f"{folder / 'policy.json'} can't be read: {error}") from None
        self._rows: dict[tuple[Cell, int], EpisodeRow] = {}
        self._state_of: dict[int, str] = {}
        self._episode_of: dict[str, int] = {}
        path = folder / "episodes.csv"
        if path.exists():
            try:
                self._index(read_rows(path))
            except EpisodeTableError as error:
                raise RecordError(str(error)) from None

    @classmethod
    def open_or_create(cls, folder: Path, facts: Row) -> Record:
        """The record in `folder`, created if there is none.

        Raises:
            RecordError: the record there is of another policy, task or engine.
        """
        path = folder / "policy.json"
        if not path.exists():
            write_json(path, facts)
        record = cls(folder)
        for name in _CONDITIONS:
            if record.facts.get(name) != facts[name]:
                raise RecordError(
                    f"{path}: {name} is {record.facts.get(name)!r} there and {facts[name]!r} here; choose another --out"
                )
        return record

    def missing(self, cell: Cell, seeds: Seeds) -> list[Job]:
        """The episodes of a cell that have not been run, as jobs."""
        return [
            Job(episode, cell.num_candidates, cell.num_steps, select=cell.select)
            for episode in seeds.range
            if (cell, episode) not in self._rows
        ]

    def rows(self, cell: Cell, seeds: Seeds) -> list[EpisodeRow] | None:
        """A cell's episodes in order of their seeds; None if some have not been run."""
        if self.missing(cell, seeds):
            return None
        return [self._rows[cell, episode] for episode in seeds.range]

    def add(self, results: Iterable[EpisodeResult]) -> None:
        """Add `results`; they are on disk before anything else happens.

        Raises:
            RecordError: initial states contradict their seeds.
        """
        rows = [EpisodeRow.of(result) for result in results]
        append_rows(self.folder / "episodes.csv", rows)
        self._index(rows)

    def table(self, name: str) -> list[dict[str, str]]:
        """The rows of the table "latency" or "shortcut"; empty if it has not been measured."""
        path = self.folder / f"{name}.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    def has_shortcut(self, num_steps: tuple[int, ...]) -> bool:
        """Whether the shortcut error has been measured for all of `num_steps`."""
        return set(num_steps) <= {int(row["num_steps"]) for row in self.table("shortcut")}

    def write_table(self, name: str, rows: list[Row]) -> None:
        """Replace the table "latency" or "shortcut"; all `rows` have the same keys."""
        write_table(self.folder / f"{name}.csv", rows)

    def _index(self, rows: Iterable[EpisodeRow]) -> None:
        for row in rows:
            # Two commands may have run the same episode at the same time. The first row counts.
            cell = Cell(row.num_candidates, row.num_steps, row.select)  # type: ignore[arg-type]
            self._rows.setdefault((cell, row.episode), row)
            state = self._state_of.setdefault(row.episode, row.initial_state)
            if state != row.initial_state:
                raise RecordError(
                    f"{self.folder}: episode {row.episode} began in another state under {cell} than before: "
                    "its cells cannot be paired (were they run on another machine?)"
                )
            if self._episode_of.setdefault(row.initial_state, row.episode) != row.episode:
                raise RecordError(
                    f"{self.folder}: episodes {self._episode_of[row.initial_state]} and {row.episode} began in the "
                    "same state: the environment ignores its seed"
                )


def record_folder(folder: Path, version: str) -> Path:
    """The folder of a policy's record; `version` is the policy file's sha256."""
    return folder / "policies" / version[:16]


def best_cell(record: Record, protocol: Protocol) -> Cell | None:
    """The grid's cell of highest success on selection seeds; None if the grid is incomplete.

    Among equals, the one of least compute N x M, then of fewest steps.
    """
    best: tuple[int, int, int] | None = None
    chosen = None
    for cell in protocol.grid():
        rows = record.rows(cell, protocol.selection)
        if rows is None:
            return None
        key = (sum(row.success for row in rows), -cell.num_candidates * cell.num_steps, -cell.num_steps)
        if best is None or key > best:
            best, chosen = key, cell
    return chosen


def write_table(path: Path, rows: list[Row]) -> None:
    """Write `rows` as CSV with the first row's keys as header; None is an empty field. No rows: remove the file."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
