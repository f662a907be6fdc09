"""The requests of a drill: each has its own id, seed and budget; half have deadlines, some are malformed or extreme.

They come in all protocols at once, drawn by chance.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from bench.drill.malformed import malformed_request
from bench.protocols import PROTOCOLS, Ask, ProtocolName, WireProtocol

Kind = Literal["plain", "hang-up", "malformed", "extreme"]

MODEL = "drill"
"""The name of the policy that is asked."""
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
        protocol: how it is sent.
    """

    number: int
    kind: Kind
    protocol: ProtocolName = "http-json"

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

    @property
    def wire(self) -> WireProtocol:
        return PROTOCOLS[self.protocol]

    def encode(self, obs_dim: int) -> bytes:
        """The bytes of the request in its protocol."""
        ask = Ask(MODEL, self.observation(obs_dim), *self.budget, self.number, self.deadline_ms, self.id)
        return malformed_request(self.protocol, ask) if self.kind == "malformed" else self.wire.encode(ask)


def plan(
    requests: int,
    hang_ups: int,
    poison: int,
    protocols: Sequence[ProtocolName] = ("http-json",),
    seed: int = 0,
) -> list[DrillRequest]:
    """Make `requests` requests in random order, with `hang_ups` hang-ups and `poison` malformed or extreme ones (half
    each) among them. Every protocol has a like share of all of them.

    Raises:
        ValueError: these are more than `requests`, or negative.
    """
    if min(hang_ups, poison) < 0 or hang_ups + poison > requests:
        raise ValueError(f"need 0 <= hang_ups + poison <= requests, got {hang_ups}, {poison} and {requests}")
    malformed, extreme = poison - poison // 2, poison // 2
    counts: dict[Kind, int] = {"hang-up": hang_ups, "malformed": malformed, "extreme": extreme}
    counts["plain"] = requests - sum(counts.values())
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    in_turn = [(kind, protocols[number % len(protocols)]) for number, kind in enumerate(kinds)]
    random.Random(seed).shuffle(in_turn)
    return [DrillRequest(number, kind, protocol) for number, (kind, protocol) in enumerate(in_turn)]


def repeat_until(requests: list[DrillRequest], enough: Callable[[], bool]) -> Iterator[DrillRequest]:
    """Yield the planned requests, then more of the same kinds and protocols, appended to `requests`, until `enough` is
    true."""
    planned = len(requests)
    yield from requests[:planned]
    while not enough():
        requests.append(replace(requests[len(requests) % planned], number=len(requests)))
        yield requests[-1]
