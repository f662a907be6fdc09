"""The flight recorder: answered requests on disk, their file format, and `sorl-replay`, which computes them again."""

from service.recording.format import Record, Recording, RecordingError, read_recording
from service.recording.recorder import Recorder

__all__ = ["Record", "Recorder", "Recording", "RecordingError", "read_recording"]
