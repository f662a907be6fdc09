from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.recording import recorder as recorder_module
from service.recording.format import Record, RecordingError, read_recording
from service.recording.recorder import Recorder
from service.sample import SampleRequest

HEADER = {"checkpoint": "/policies/small.safetensors", "model": "small"}


def record(number: int, rows: int = 2) -> Record:
    random = np.random.default_rng(number)
    work = SampleRequest(
        observation=random.normal(size=(rows, 6)).astype(np.float32),
        num_candidates=3,
        num_steps=2,
        seeds=np.array([2**64 - 1 - number, *range(1, rows)], np.uint64),
        temperature=0.3,
    )
    action, q = random.normal(size=(rows, 3)).astype(np.float32), random.normal(size=rows).astype(np.float32)
    return Record(1.5, f"request-{number}", "small", "abc", "reference/fp32/cpu", work, action, q)


class Lost:
    """Counts dropped records."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, number: int) -> None:
        self.count += number


@pytest.fixture
def lost() -> Lost:
    return Lost()


@pytest.fixture
def make(tmp_path: Path, lost: Lost) -> Callable[..., Recorder]:
    def make_recorder(**limits: int) -> Recorder:
        limits = {"max_bytes": 1 << 20, "max_files": 4, **limits}
        return Recorder(tmp_path / "recordings", HEADER, dropped=lost, **limits)

    return make_recorder


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "recordings").iterdir())


def test_round_trip_is_exact(make: Callable[..., Recorder], tmp_path: Path, lost: Lost) -> None:
    written = [record(number, rows=1 + number % 3) for number in range(20)]
    recorder = make()
    recorder.start()
    assert all(recorder.offer(one) for one in written)
    recorder.close()
    (path,) = files(tmp_path)
    recording = read_recording(path)
    assert recording.header["checkpoint"] == HEADER["checkpoint"]
    assert not recording.truncated
    assert lost.count == 0
    for before, after in zip(written, recording.records, strict=True):
        for array in ("observation", "seeds"):
            np.testing.assert_array_equal(getattr(after.request, array), getattr(before.request, array), strict=True)
        np.testing.assert_array_equal(after.action, before.action, strict=True)
        np.testing.assert_array_equal(after.q, before.q, strict=True)
        assert after.to_json() == before.to_json()


def test_full_queue_drops_and_counts_without_waiting(
    make: Callable[..., Recorder], tmp_path: Path, lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk hangs (an event that nobody sets yet); offers return all the same, and what found no room is counted."""
    monkeypatch.setattr(recorder_module, "MAX_WAITING", 5)
    recorder = make()
    writing, disk = threading.Event(), threading.Event()
    write = recorder._write

    def hang(records: Any) -> None:
        writing.set()
        assert disk.wait(30)
        write(records)

    monkeypatch.setattr(recorder, "_write", hang)
    recorder.start()
    assert recorder.offer(record(0))
    assert writing.wait(30)
    assert [recorder.offer(record(number)) for number in range(1, 9)] == [True] * 5 + [False] * 3
    assert lost.count == 3
    disk.set()
    recorder.close()
    (path,) = files(tmp_path)
    assert [one.request_id for one in read_recording(path).records] == [f"request-{number}" for number in range(6)]


def test_rotation_keeps_the_newest_files(make: Callable[..., Recorder], tmp_path: Path, lost: Lost) -> None:
    recorder = make(max_bytes=4096, max_files=3)
    recorder.start()
    number = 0
    while len(list((tmp_path / "recordings").iterdir())) < 3 or number % 40:
        assert recorder.offer(record(number)) or lost.count
        number += 1
    recorder.close()
    kept = [read_recording(path) for path in files(tmp_path)]
    assert len(kept) <= 3
    assert all(path.stat().st_size < 6000 for path in files(tmp_path))
    ids = [int(one.request_id.removeprefix("request-")) for recording in kept for one in recording.records]
    assert ids == sorted(ids)


def test_disk_that_refuses_costs_records_not_the_server(
    make: Callable[..., Recorder], tmp_path: Path, lost: Lost, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = make()
    folder = tmp_path / "recordings"
    folder.rmdir()
    folder.write_text("a file where the folder was")
    recorder.start()
    recorder.offer(record(0))
    recorder.close()
    assert lost.count == 1
    assert "can't write" in caplog.text


FULL_DISK = """
import json, resource, signal, sys
from pathlib import Path
from service.recording import Recorder, read_recording
from tests.service.recording.test_recorder import HEADER, record

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit, count, folder = int(sys.argv[1]), 40, Path(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # no file grows beyond it, as on a disk that is full
lost = []
recorder = Recorder(folder, HEADER, max_bytes=1 << 20, max_files=9, dropped=lost.append)
for number in range(count):
    assert recorder.offer(record(number))
recorder.start()
recorder.close()
recordings = [read_recording(path) for path in sorted(folder.iterdir())]
print(json.dumps([count, sum(lost), sum(len(r.records) for r in recordings), any(r.truncated for r in recordings)]))
"""


@pytest.mark.parametrize("limit", [10, 700, 5000, 12_000])
def test_records_that_a_full_disk_refused_are_counted_as_dropped(tmp_path: Path, limit: int) -> None:
    """What is on disk and what is counted as lost add up, and no file ends in half a record."""
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", FULL_DISK, str(limit), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    offered, lost, on_disk, truncated = json.loads(done.stdout)
    assert lost + on_disk == offered
    assert lost > 0
    assert not truncated
    assert done.stderr.count("the flight recorder can't write") == 1


def damaged(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    value = json.loads(record(0).to_json())
    change(value)
    path.write_text(json.dumps({"sorl_recording": 1}) + "\n" + json.dumps(value) + "\n")
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.pop("seeds"),
        lambda value: value.update(seeds=["1"]),
        lambda value: value.update(seeds=["-1", "2"]),
        lambda value: value.update(seeds=[{}, 1]),
        lambda value: value.update(observation=[1.0]),
        lambda value: value["observation"].update(shape=[6, 2, 1]),
        lambda value: value["action"].update(dtype="<i4"),
        lambda value: value["q"].update(__numpy__="x"),
        lambda value: value.update(num_candidates=0),
        lambda value: value.update(num_candidates=10**30),
        lambda value: value.update(num_steps=2**31),
        lambda value: value.update(temperature=float("nan")),
        lambda value: value.update(time=float("inf")),
        lambda value: value["observation"].update(__numpy__=base64.b64encode(b"\0\0\xc0\x7f" * 12).decode()),
        lambda value: value.update(num_steps=True),
        lambda value: value.update(temperature="1"),
        lambda value: value.update(model_version=None),
    ],
)
def test_damaged_record_names_its_line(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    with pytest.raises(RecordingError, match="line 2 is damaged"):
        read_recording(damaged(tmp_path / "bad.jsonl", change))


@pytest.mark.parametrize("data", [b"", b"no newline", b"\n", b"{}\n", b'{"sorl_recording": 2}\n', b"\xff\n"])
def test_what_is_no_recording_is_said(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other.jsonl"
    path.write_bytes(data)
    with pytest.raises(RecordingError, match=r"other\.jsonl"):
        read_recording(path)


def test_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="cannot be read"):
        read_recording(tmp_path / "none.jsonl")
