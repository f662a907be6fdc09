"""The flight recorder: what was asked, granted and answered, kept on disk without ever slowing a reply.

`recording` describes the files; `sorl-replay` recomputes them.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from service.recording.format import FORMAT_VERSION, Record

log = logging.getLogger(__name__)

MAX_WAITING = 1024  # records in memory: some tens of MB at the largest, a second or more of a busy server


class Recorder:
    """Takes records from any thread; its own thread encodes and writes them.

    Args:
        folder: where recordings go; made if missing. Its limits hold for all recordings in it, whoever wrote them.
        header: what the first line says besides format and time.
        max_bytes: size at which a new file is begun.
        max_files: recordings kept; the oldest are deleted.
        dropped: called with the number of records lost, as the queue was full or the disk refused them.

    Raises:
        OSError: the folder can't be made.
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
        self._folder = folder
        self._header = header
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._dropped = dropped
        self._wake = threading.Condition()  # guards the two below; never held while writing
        self._waiting: deque[Record] = deque()
        self._closing = False
        self._file: BinaryIO | None = None
        self._files = 0
        self._failing = False
        self._thread = threading.Thread(target=self._write_all, name="sorl-recorder", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def offer(self, record: Record) -> bool:
        """Keep `record` if there is room; never waits for the disk."""
        with self._wake:
            kept = not self._closing and len(self._waiting) < MAX_WAITING
            if kept:
                self._waiting.append(record)
                self._wake.notify()
        if not kept:
            self._dropped(1)
        return kept

    def close(self) -> None:
        """Write what is waiting, then end. Waits for the disk."""
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
        if self._file is not None:
            self._file.close()

    def _write(self, records: deque[Record]) -> None:
        written = 0
        try:
            for record in records:
                file = self._file or self._open()
                file.write(record.to_json().encode() + b"\n")
                written += 1
                if file.tell() >= self._max_bytes:
                    file.close()
                    self._file = None
            if self._file is not None:
                self._file.flush()
            self._failing = False
        except OSError as error:
            # A full disk must not stop the robot. A half-written line would damage the file: go on in a new one.
            self._abandon_file()
            self._dropped(len(records) - written)
            if not self._failing:
                log.error("the flight recorder can't write to %s: %s; dropping until it can", self._folder, error)
            self._failing = True

    def _open(self) -> BinaryIO:
        now = datetime.now(UTC)
        self._files += 1
        path = self._folder / f"sorl-{now:%Y%m%dT%H%M%S}-{os.getpid()}-{self._files:06d}.jsonl"
        header = {"sorl_recording": FORMAT_VERSION, **self._header, "created": now.isoformat()}
        file: BinaryIO = path.open("xb")
        self._file = file
        file.write(json.dumps(header).encode() + b"\n")
        for old in sorted(self._folder.glob("sorl-*.jsonl"))[: -self._max_files]:
            old.unlink(missing_ok=True)
        return file

    def _abandon_file(self) -> None:
        try:
            if self._file is not None:
                self._file.close()
        except OSError:
            pass  # it tried to flush the bytes the disk has just refused
        self._file = None
