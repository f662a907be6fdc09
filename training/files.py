"""Files that are either whole or absent, the check that they can be written, and their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class OutputError(ValueError):
    """A file or folder that a command is to write cannot be written; the message names the flag and says why."""


def require_folder(flag: str, folder: Path) -> None:
    """Check that files can be written into `folder`, which need not exist, before a command works for it.

    It tries. As root, permissions say that all is allowed, but nothing can be made in /proc. What it made is removed
    again, so that a command which fails later leaves no empty folder.

    Raises:
        OutputError: no file can be written there.
    """
    missing: list[Path] = []
    try:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{flag} {folder}: is not a folder")
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"{flag} {folder}: cannot be written: {error.strerror}") from None
    finally:
        for path in missing:
            with suppress(OSError):  # never made, or another process has put something there
                path.rmdir()


def require_file(flag: str, file: Path) -> None:
    """Check that `file`, which need not exist, can be written, before a command works for it.

    Raises:
        OutputError: it cannot; or it is a folder or a device, which `atomic_path` must not replace.
    """
    try:
        if file.exists() and not file.is_file():
            raise OutputError(f"{flag} {file}: is not a file")
        require_folder(flag, file.parent)
    except OSError as error:
        raise OutputError(f"{flag} {file}: cannot be written: {error.strerror}") from None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` if the block succeeds and is deleted otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file; None if the file does not exist."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_folder(path: Path) -> str:
    """Hex sha256 of the names and contents of all files below `path`."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{sha256_of(file)}  {file.relative_to(path).as_posix()}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
