"""Episodes as CSV, one row each: what `sorl-evaluate --csv` writes and `sorl-results` keeps."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from training.episodes import EpisodeResult
from training.files import atomic_path


class EpisodeTableError(ValueError):
    """An episode table cannot be read; the message names file and line."""


@dataclass(frozen=True)
class EpisodeRow:
    """One episode under one budget and selection rule."""

    num_candidates: int
    num_steps: int
    episode: int
    """The episode's seed."""
    success: int
    """1 if the final info["success"] is true, else 0; a time-out or a crash is 0."""
    steps: int
    first_q: float
    """Q of the first executed action."""
    select: str
    """Which candidate was executed, see `training.episodes.Selection`."""
    mean_q: float
    """Mean Q of the executed actions."""
    discounted_return: float
    """Discounted sum of rewards, as training sees them. A time-out cuts it off."""
    mean_return: float
    """Mean, over steps, of the discounted return from that step on: what `mean_q` estimates."""
    crashed: int
    """1 if the simulation failed, else 0."""
    seconds: float
    """Share of the worker's wall time."""
    initial_state: str
    """Digest of the first observation: the same for equal seeds, different for different ones."""
    execute: int = 1
    """Actions executed of each reply. Older tables lack this column and the next."""
    jerk: float = math.nan
    """Of the executed actions, in action units per second squared."""

    @classmethod
    def of(cls, result: EpisodeResult) -> EpisodeRow:
        """The row of a result."""
        job = result.job
        return cls(
            num_candidates=job.num_candidates,
            num_steps=job.num_steps,
            episode=job.episode,
            success=int(result.success),
            steps=result.steps,
            first_q=result.first_q,
            select=job.select,
            mean_q=result.mean_q,
            discounted_return=result.discounted_return,
            mean_return=result.mean_return,
            crashed=int(result.crashed),
            seconds=round(result.seconds, 4),
            initial_state=hashlib.sha256(np.array(result.initial_state).tobytes()).hexdigest()[:16],
            execute=result.execute,
            jerk=result.jerk,
        )


COLUMNS = tuple(field.name for field in fields(EpisodeRow))
_OLDER = COLUMNS[: COLUMNS.index("execute")]
_KINDS = {"int": int, "float": float, "str": str}
_PARSERS = tuple(_KINDS[str(field.type)] for field in fields(EpisodeRow))


def write_rows(path: Path, rows: Iterable[EpisodeRow]) -> None:
    """Write a table of `rows`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(_lines([COLUMNS]) + _lines(map(astuple, rows)), newline="")


def append_rows(path: Path, rows: Iterable[EpisodeRow]) -> None:
    """Append `rows` in one write of whole lines. Creates the file if it does not exist; an older one keeps its columns.

    Raises:
        EpisodeTableError: the file is no table of episodes, or has no column for what a row says.
    """
    if not path.exists():
        write_rows(path, ())
    rows = list(rows)
    with path.open("r+b") as file:
        columns = _require_header(path, file.readline().decode())
        if "execute" not in columns and any(row.execute != 1 for row in rows):
            raise EpisodeTableError(f"{path}: it has no column 'execute', and these episodes need one")
        file.seek(0, io.SEEK_END)
        file.write(_lines(astuple(row)[: len(columns)] for row in rows).encode())


def read_rows(path: Path) -> list[EpisodeRow]:
    """All rows. An incomplete last line, as a power cut leaves it, is dropped here and from the file.

    Raises:
        EpisodeTableError: the header differs, or a line does not parse.
    """
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        with atomic_path(path) as temporary:
            temporary.write_text(whole, newline="")
    header, *lines = whole.splitlines() or [""]
    parsers = _PARSERS[: len(_require_header(path, header))]
    return [_parse(path, parsers, number, line) for number, line in enumerate(csv.reader(lines), start=2)]


def _require_header(path: Path, line: str) -> tuple[str, ...]:
    """The columns that the first line of a file names."""
    columns = tuple(line.rstrip("\r\n").split(","))
    if columns not in (COLUMNS, _OLDER):
        raise EpisodeTableError(f"{path}: the header must be {','.join(COLUMNS)}")
    return columns


def _parse(path: Path, parsers: tuple[Callable[[str], Any], ...], number: int, line: list[str]) -> EpisodeRow:
    try:
        return EpisodeRow(*(parse(cell) for parse, cell in zip(parsers, line, strict=True)))
    except ValueError as error:
        raise EpisodeTableError(f"{path}, line {number}: {error}") from None


def _lines(rows: Iterable[tuple[object, ...]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
