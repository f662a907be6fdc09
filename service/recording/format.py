"""The flight recorder's file format, which `recorder` writes and `replay` reads.

A recording is JSON lines. The first line is the header:
    {"sorl_recording": 1, "checkpoint": path of the file or folder served, "created": ...}
Each further line is a `Record`: one request of B observations and its answer. Model, version and engine are in every
line, since a reload may change them:
    time (Unix seconds), request_id, model, model_version, engine, num_candidates, num_steps, temperature,
    seeds (B decimal strings), and observation (B, obs_dim), action (B, action_dim) or (B, action_horizon, action_dim)
    in environment units, q (B,) as encoded float32 arrays, exact to the bit;
    and of requests with committed actions these as committed (B, d, action_dim) in [-1, 1], and coherence.
A crash can cut the last line. No file is appended to after its writer has closed it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from sys import float_info
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.commitment import Commitment
from service.errors import InvalidRequest
from service.protocol import codec, decode_array, encode_array
from service.sample import SampleRequest

FORMAT_VERSION = 1


class RecordingError(ValueError):
    """A recording is damaged, or can't be checked with the given checkpoints. The message says where and why."""


@dataclass(frozen=True)
class Record:
    """One answered request. `request` is as computed: its observations, seeds and budget."""

    time: float
    request_id: str
    model: str
    model_version: str
    engine: str
    request: SampleRequest
    action: NDArray[np.float32]
    q: NDArray[np.float32]

    def to_json(self) -> str:
        """One line, without its end."""
        commitment = self.request.commitment
        committed = {}
        if commitment is not None:
            committed = {"committed": encode_array(commitment.actions), "coherence": commitment.coherence}
        return json.dumps(
            {
                "time": self.time,
                "request_id": self.request_id,
                "model": self.model,
                "model_version": self.model_version,
                "engine": self.engine,
                "num_candidates": self.request.num_candidates,
                "num_steps": self.request.num_steps,
                "temperature": self.request.temperature,
                "seeds": [str(seed) for seed in self.request.seeds.tolist()],
                "observation": encode_array(self.request.observation),
                "action": encode_array(self.action),
                "q": encode_array(self.q),
                **committed,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Record:
        """Raises KeyError, ValueError or InvalidRequest, naming the field, for what `to_json` did not write."""
        observation, action = _array(value, "observation", 2), _array(value, "action", 2, 3)
        q = _array(value, "q", 1)
        seeds = np.array([int(seed) for seed in _typed(value, "seeds", list)], dtype=np.uint64)
        if not len(observation) == len(action) == len(q) == len(seeds):
            raise ValueError("its arrays differ in rows")
        n, m = _typed(value, "num_candidates", int), _typed(value, "num_steps", int)
        if not (0 < n < 2**31 and 0 < m < 2**31):
            raise ValueError(f"{codec.brief(n)} candidates of {codec.brief(m)} steps")
        commitment = None
        if "committed" in value:
            commitment = Commitment(_array(value, "committed", 3), _number(value, "coherence", 1.0))
            if len(commitment.actions) != len(seeds):
                raise ValueError("its arrays differ in rows")
        temperature = _number(value, "temperature", 2.0)
        request = SampleRequest(observation, n, m, seeds, temperature, commitment=commitment)
        return cls(
            time=_number(value, "time", float_info.max),
            request_id=_typed(value, "request_id", str),
            model=_typed(value, "model", str),
            model_version=_typed(value, "model_version", str),
            engine=_typed(value, "engine", str),
            request=request,
            action=action,
            q=q,
        )


@dataclass(frozen=True)
class Recording:
    """A file's header, its records, and whether its last line was cut."""

    header: Mapping[str, Any]
    records: list[Record]
    truncated: bool


def read_recording(path: Path) -> Recording:
    """Read a recording.

    Raises:
        RecordingError: it can't be read, isn't a recording, or a line other than a cut last one is damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror}") from None
    *lines, rest = data.split(b"\n")  # a whole file ends with a newline: nothing is left after it
    if not lines:
        raise RecordingError(f"{path}: not a recording: it has no whole line")
    header = _object(path, 1, lines[0])
    if header.get("sorl_recording") != FORMAT_VERSION:
        raise RecordingError(
            f"{path}: not a recording this release reads: expected sorl_recording {FORMAT_VERSION} in its first line"
        )
    records = [_record(path, number, line) for number, line in enumerate(lines[1:], start=2)]
    return Recording(header, records, truncated=bool(rest))


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RecordingError(f"{path}: line {number} is damaged: not a JSON object")
    return value


def _record(path: Path, number: int, line: bytes) -> Record:
    value = _object(path, number, line)
    try:
        return Record.from_json(value)
    except KeyError as error:
        raise RecordingError(f"{path}: line {number} is damaged: {error} is missing") from None
    except (InvalidRequest, ValueError, TypeError, OverflowError) as error:
        raise RecordingError(f"{path}: line {number} is damaged: {error}") from None


def _typed(value: Mapping[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(value[name], kind) or isinstance(value[name], bool):
        raise ValueError(f"{name} is of type {type(value[name]).__name__}")
    return value[name]


def _number(value: Mapping[str, Any], name: str, most: float) -> float:
    number = float(_typed(value, name, (int, float)))
    if not 0 <= number <= most:
        raise ValueError(f"{name} is {number:g}")
    return number


def _array(value: Mapping[str, Any], name: str, *axes: int) -> NDArray[np.float32]:
    array = decode_array(_typed(value, name, dict), name)
    if array.dtype != np.float32 or array.ndim not in axes or not len(array):
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite")
    return array
