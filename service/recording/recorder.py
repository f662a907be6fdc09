"""The flight recorder: it keeps answered requests on disk, and never slows a reply.

`format` describes the files. `sorl-replay` recomputes them.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

from service.recording.format import FORMAT_VERSION, Record

log = logging.getLogger(__name__)

MAX_WAITING = 1024  # records in memory: tens of MB at most, and at least a second of a busy server


class Recorder:
    """Takes records from any thread; its own thread encodes and writes them.

    Args:
        folder: where recordings go; made if missing. The limits hold for all recordings in it, whoever wrote them.
        header: members of the first line besides format and time.
        max_bytes: size at which a new file is begun.
        max_files: recordings kept; the oldest are deleted.
        dropped: called with the number of records that will not be on disk: the queue was full, or the disk was.

    Raises:
        OSError: the folder can't be made or written to.
    """

    def __init__(
        self,
        folder: Path,
        header: dict[str, Any],
        *,
        max_bytes: int,
        max_files: int,
        dropped: Callable[[int], None],
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass  # a folder that can't be written to is refused now, not with the first record
        self._folder = folder
        self._header = header
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._dropped = dropped
        self._wake = threading.Condition()  # guards the two below; never held while writing
        self._waiting: deque[Record] = deque()
        self._closing = False
        self._file: FileIO | None = None
        self._size = 0  # of that file
        self._files = 0
        self._failing = False
        self._thread = threading.Thread(target=self._write_all, name="sorl-recorder", daemon=True)

    def start(self) -> None:
        """Start the writer thread."""
        self._thread.start()

    def offer(self, record: Record) -> bool:
        """Take `record` if there is room. Never waits for the disk. False: it was dropped."""
        with self._wake:
            kept = not self._closing and len(self._waiting) < MAX_WAITING
            if kept:
                self._waiting.append(record)
                self._wake.notify()
        if not kept:
            self._dropped(1)
        return kept

    def close(self) -> None:
        """Write the waiting records, then end. Waits for the disk."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    # The writer thread's side.

    def _write_all(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closing:
                    self._wake.wait()
                records, self._waiting = self._waiting, deque()
            if not records:
                break
            self._write(records)
        self._close()

    def _write(self, records: deque[Record]) -> None:
        written = 0
        try:
            for record in records:
                if self._file is None:
                    self._file = self._open()
                self._append(self._file, record.to_json())
                written += 1
                if self._size >= self._max_bytes:
                    self._close()
            self._failing = False
        except OSError as error:
            # A full disk must not stop the robot.
            self._close()
            self._dropped(len(records) - written)
            if not self._failing:
                log.error("the flight recorder can't write to %s: %s; dropping until it can", self._folder, error)
            self._failing = True

    def _open(self) -> FileIO:
        now = datetime.now(UTC)
        self._files += 1
        path = self._folder / f"sorl-{now:%Y%m%dT%H%M%S}-{os.getpid()}-{self._files:06d}.jsonl"
        header = {"sorl_recording": FORMAT_VERSION, **self._header, "created": now.isoformat()}
        # Unbuffered: a buffer accepts records and loses them later, when it meets a full disk.
        file = path.open("xb", buffering=0)
        self._size = 0
        try:
            self._append(file, json.dumps(header))
        except OSError:
            file.close()
            path.unlink()  # an empty file is no recording
            raise
        for old in sorted(self._folder.glob("sorl-*.jsonl"))[: -self._max_files]:
            old.unlink(missing_ok=True)
        return file

    def _append(self, file: FileIO, line: str) -> None:
        """Write a line. Raises OSError with nothing of it in the file: half a line would damage the recording."""
        data = line.encode() + b"\n"
        rest = data
        try:
            while rest:  # a disk that fills up takes a part first
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(self._size)
            raise
        self._size += len(data)

    def _close(self) -> None:
        """Close the file, if there is one. The next record begins a new one."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
