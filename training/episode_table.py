"""Episodes as CSV, one row each: what `sorl-evaluate --csv` writes and `sorl-results` keeps."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

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
        )


COLUMNS = tuple(field.name for field in fields(EpisodeRow))
_KINDS = {"int": int, "float": float, "str": str}
_PARSERS = tuple(_KINDS[str(field.type)] for field in fields(EpisodeRow))


def write_rows(path: Path, rows: Iterable[EpisodeRow]) -> None:
    """Write a table of `rows`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(_lines([COLUMNS]) + _lines(map(astuple, rows)), newline="")


def append_rows(path: Path, rows: Iterable[EpisodeRow]) -> None:
    """Append `rows` in one write of whole lines. Creates the file if it does not exist."""
    if not path.exists():
        write_rows(path, ())
    with path.open("ab") as file:
        file.write(_lines(map(astuple, rows)).encode())


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
    lines = list(csv.reader(io.StringIO(whole)))
    if not lines or tuple(lines[0]) != COLUMNS:
        raise EpisodeTableError(f"{path}: the header must be {','.join(COLUMNS)}")
    return [_parse(path, number, line) for number, line in enumerate(lines[1:], start=2)]


def _parse(path: Path, number: int, line: list[str]) -> EpisodeRow:
    try:
        return EpisodeRow(*(parse(cell) for parse, cell in zip(_PARSERS, line, strict=True)))
    except ValueError as error:
        raise EpisodeTableError(f"{path}, line {number}: {error}") from None


def _lines(rows: Iterable[tuple[object, ...]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
