"""The requests of a drill: each has its own id, seed and budget; half have deadlines, some are malformed or extreme."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bench.connection import encode_request

Kind = Literal["plain", "hang-up", "malformed", "extreme"]

BUDGETS = [(1, 1), (4, 2), (8, 8), (32, 4)]
DEADLINES_MS = [None, 50, None, 100]
"""In turn, each for as many requests as there are budgets. N and M may then be reduced (`on_late` is "degrade")."""
OBSERVATIONS = 16
EXTREME = 3e38
"""Finite in float32; the first matrix product overflows."""


@dataclass(frozen=True)
class DrillRequest:
    """One request of a drill.

    Attributes:
        number: 0, 1, ...; also its seed.
        kind: plain; hang-up: the client disconnects before the reply and sends it again; malformed: must be refused;
            extreme: the observation overflows in every network.
    """

    number: int
    kind: Kind

    @property
    def id(self) -> str:
        return f"drill-{self.number:07}"

    @property
    def budget(self) -> tuple[int, int]:
        return BUDGETS[self.number % len(BUDGETS)]

    @property
    def deadline_ms(self) -> int | None:
        """None without a deadline; malformed and extreme requests have none."""
        if self.kind in ("malformed", "extreme"):
            return None
        return DEADLINES_MS[self.number // len(BUDGETS) % len(DEADLINES_MS)]

    def observation(self, obs_dim: int) -> np.ndarray:
        """(obs_dim,) float32."""
        if self.kind == "extreme":
            signs = np.random.default_rng(self.number).choice([-1.0, 1.0], obs_dim)
            return (EXTREME * signs).astype(np.float32)
        drawn = np.random.default_rng(self.number % OBSERVATIONS).standard_normal(obs_dim)
        return drawn.round(4).astype(np.float32)

    def encode(self, obs_dim: int) -> bytes:
        """The bytes of the HTTP request. The id is in a header, because a malformed body can't be read."""
        if self.kind == "malformed":
            body, headers = _MALFORMED[self.number % len(_MALFORMED)]
        else:
            body, headers = json.dumps(self._fields(obs_dim)).encode(), {}
        return encode_request("POST", "/act", body, {"X-Request-ID": self.id, **headers})

    def _fields(self, obs_dim: int) -> dict[str, Any]:
        n, m = self.budget
        observation = self.observation(obs_dim).tolist()
        fields = {"observation": observation, "num_candidates": n, "num_steps": m, "seed": self.number}
        return fields if self.deadline_ms is None else {**fields, "deadline_ms": self.deadline_ms}


def plan(requests: int, hang_ups: int, poison: int, seed: int = 0) -> list[DrillRequest]:
    """Make `requests` requests in random order, with `hang_ups` hang-ups and `poison` malformed or extreme ones (half
    each) among them.

    Raises:
        ValueError: these are more than `requests`, or negative.
    """
    if min(hang_ups, poison) < 0 or hang_ups + poison > requests:
        raise ValueError(f"need 0 <= hang_ups + poison <= requests, got {hang_ups}, {poison} and {requests}")
    malformed, extreme = poison - poison // 2, poison // 2
    counts: dict[Kind, int] = {"hang-up": hang_ups, "malformed": malformed, "extreme": extreme}
    counts["plain"] = requests - sum(counts.values())
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    random.Random(seed).shuffle(kinds)
    return [DrillRequest(number, kind) for number, kind in enumerate(kinds)]


def repeat_until(requests: list[DrillRequest], enough: Callable[[], bool]) -> Iterator[DrillRequest]:
    """Yield the planned requests, then more of the same kinds, appended to `requests`, until `enough` is true."""
    planned = len(requests)
    yield from requests[:planned]
    while not enough():
        requests.append(DrillRequest(len(requests), requests[len(requests) % planned].kind))
        yield requests[-1]


def _malformed() -> Iterator[tuple[bytes, dict[str, str]]]:
    """Invalid bodies, each with its headers. They are invalid for every policy with an obs_dim above 1."""
    yield b"", {}
    yield b'{"observation": [1, 2', {}
    yield b"[" * 10_000, {}
    yield b'{"observation": [1, NaN, 2]}', {}
    yield b'{"observation": [1e39]}', {}
    yield b'{"observation": "all of it"}', {}
    yield b'{"observation": [[1, 2], [3]]}', {}
    yield b'{"observation": [0.5, 0.5, 0.5], "num_candidates": 0}', {}
    yield b'{"observation": [0.5, 0.5, 0.5], "num_steps": 10000000000}', {}
    yield b'{"observation": [0.5, 0.5, 0.5], "candidates": 4}', {}
    yield b'{"observation": [0.5, 0.5, 0.5], "seed": -1}', {}
    yield b'{"observation": [0.5, 0.5, 0.5], "deadline_ms": "soon"}', {}
    yield b"\xff\xfe\x00", {}
    yield b"\xc1", {"Content-Type": "application/msgpack"}
    yield b"observation=1", {"Content-Type": "application/x-www-form-urlencoded"}


_MALFORMED = list(_malformed())
