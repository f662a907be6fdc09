"""`Tick`: what a control loop does at one tick, and `LoopStatistics`: what it did so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sorl_client.action import Action, FloatArray
from sorl_client.chunk_schedule import ChunkStatistics
from sorl_client.errors import SorlError

Source = Literal["fresh", "held", "fallback", "stopped"]


@dataclass(frozen=True, eq=False)
class LateReply:
    """A reply that came after the tick of its last action. It is reported once, and never executed.

    tick        the number of the tick whose observation it answers
    latency_ms  from that tick's `step` to the reply
    """

    tick: int
    latency_ms: float
    reply: Action


@dataclass(frozen=True, eq=False)
class Tick:
    """What to do at one tick, and why.

    number      from 0
    action      (action_dim,), environment units, finite, writable
    source      "fresh": the reply to this tick's observation, or what a chunk planned for this tick; else a miss:
                "held", "fallback" or "stopped"
    latency_ms  from the call of `step` to its return
    misses      misses in a row up to this tick; 0 if it is fresh
    reply       the reply, if fresh
    error       why it is not fresh; None if fresh, and for a loop that has stopped before
    late        late replies that came since the last tick
    chunk       number of the question whose reply has this action, from 0; None if it is not fresh
    index       which action of that reply: it observed tick `number` - `index`; None if it is not fresh
    """

    number: int
    action: FloatArray
    source: Source
    latency_ms: float
    misses: int
    reply: Action | None
    error: SorlError | None
    late: tuple[LateReply, ...]
    chunk: int | None
    index: int | None


@dataclass(frozen=True)
class LoopStatistics:
    """What a loop did so far.

    misses          ticks that were not fresh
    late            replies that came after the tick of their last action
    latency_p50_ms  percentiles of the ticks' latencies, misses included, over the last 10,000; None without a tick
    chunks          what came of the questions: where replies are single actions, each is a chunk of one
    """

    ticks: int
    misses: int
    by_source: dict[Source, int]
    late: int
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    chunks: ChunkStatistics
