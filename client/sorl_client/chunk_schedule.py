"""`ChunkSchedule`: which action of which chunk is executed at a tick, and when the next chunk is asked for.

It has no clock and no connection: ticks are numbers. A single action is a chunk of one.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from sorl_client.action import Action, FloatArray
from sorl_client.statistics import percentiles

RECENT = 128  # replies that the latency is measured over
LEVEL = 95  # percent of replies that `ahead` leaves time for


@dataclass(frozen=True)
class ChunkStatistics:
    """What came of the chunks that a loop asked for.

    chunks  of which an action was executed
    misses  that came after the tick of their last action, or not at all, or were an error
    seam    mean norm of the difference between the last action executed of one chunk and the first of the next, in
            environment units; None without a seam
    within  the same between actions that follow each other inside a chunk: what the seams compare with
    """

    chunks: int
    misses: int
    seam: float | None
    within: float | None


@dataclass(frozen=True, eq=False)
class Planned:
    """The action of a tick: number `index` of the chunk called `chunk`, which came in `reply`."""

    chunk: int
    index: int
    action: FloatArray
    reply: Action


@dataclass(frozen=True, eq=False)
class Chunk:
    """Actions (h, action_dim), of which number i is planned for tick `observed` + i.

    number    of the question
    observed  tick of the observation
    entered   first tick that executes it
    """

    number: int
    observed: int
    entered: int
    actions: FloatArray
    reply: Action


class Mean:
    """The mean of the numbers added to it."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0

    def add(self, value: float) -> None:
        """Count `value` in."""
        self._sum += value
        self._count += 1

    @property
    def value(self) -> float | None:
        """None without numbers."""
        return self._sum / self._count if self._count else None


class ChunkSchedule:
    """One chunk runs and at most one is asked for.

    A chunk runs from the tick at which it is there, until the next one is, or until its last action. An action is
    executed at the tick that it was planned for, or never: those whose tick has passed are skipped.

    A robot is committed to the actions of the ticks that a reply takes to come, as far as the running chunk has them:
    `ask` returns them, and the new chunk is entered after them, however early it comes.

    horizon   actions in a chunk
    execute   the next chunk is due after so many actions of this one
    ahead     it is asked for so many ticks before. None: the ticks that 95 % of replies take
    period_s  seconds from tick to tick
    commits   whether `ask` returns what the robot is committed to; otherwise a chunk is entered when it comes
    """

    def __init__(self, horizon: int, execute: int, ahead: int | None, period_s: float, commits: bool = False) -> None:
        self._horizon = horizon
        self._execute = execute
        self._ahead = ahead
        self._period_s = period_s
        self._commits = commits
        self._measured_ahead = 1
        self._latencies_s: deque[float] = deque(maxlen=RECENT)
        self._asked = self._entered = self._misses = 0
        self._seam, self._within = Mean(), Mean()
        self.clear()

    def clear(self) -> None:
        """Forget what runs and what is asked for."""
        self.under_way: int | None = None  # tick of the observation that is asked for
        self._committed = 0  # how many actions of what is asked for the robot is committed to
        self._runs: Chunk | None = None
        self._waiting: deque[Chunk] = deque()  # those that are to be entered later, in that order
        self._last: Planned | None = None

    def stop(self) -> None:
        """Give up what is asked for, and forget the rest."""
        if self.under_way is not None:
            self.failed(self.under_way)
        self.clear()

    def is_due(self, tick: int) -> bool:
        """Whether to ask at `tick`. Gives up a question of which every action's tick has passed."""
        if self.under_way is not None and tick - self.under_way >= self._horizon:
            self.failed(self.under_way)
        if self.under_way is not None:
            return False
        running = self._running(tick)
        chunk = self._waiting[-1] if self._waiting else running  # the newest; it may have come before it is entered
        return chunk is None or tick >= self._end(chunk) - self._ticks_ahead

    def ask(self, tick: int) -> FloatArray | None:
        """The observation of `tick` is asked for. Returns what the robot is committed to, (d, action_dim), d >= 1."""
        actions: list[FloatArray] = []
        while len(actions) < self._ticks_ahead and (planned := self._planned(tick + len(actions))) is not None:
            actions.append(planned)
        self.under_way = tick
        self._asked += 1
        self._committed = len(actions) if self._commits else 0
        return np.stack(actions) if self._committed else None

    def _planned(self, tick: int) -> FloatArray | None:
        """The action that is planned for `tick` as things stand."""
        chunk = next((one for one in reversed(self._waiting) if one.entered <= tick), self._runs)
        index = -1 if chunk is None else tick - chunk.observed
        return chunk.actions[index] if chunk is not None and index < self._horizon else None

    @property
    def _ticks_ahead(self) -> int:
        """Of a chunk that comes later than that after its observation, no action would be left to choose."""
        return min(self._measured_ahead if self._ahead is None else self._ahead, self._horizon - 1)

    def waits(self, tick: int) -> bool:
        """Whether `tick` waits for what is asked for: it has no other action, or `ahead` 0 asks for it."""
        if self.under_way is None:
            return False
        chunk = self._running(tick)
        return chunk is None or (self._ahead == 0 and tick >= self._end(chunk))

    def came(self, observed: int, reply: Action, latency_s: float, first: int) -> bool:
        """The reply to the observation of tick `observed`, after `latency_s`, in time for tick `first`.

        Returns False if it is too late for all its ticks, or nobody waits for it any more.
        """
        self._latencies_s.append(latency_s)
        (p95,) = percentiles(self._latencies_s, (LEVEL,))
        self._measured_ahead = math.ceil(p95 / self._period_s)
        if observed != self.under_way:
            return False
        if first - observed >= self._horizon:
            self.failed(observed)
            return False
        self.under_way = None
        first = max(first, observed + self._committed)
        # A copy: the reply is the caller's, who may change it.
        actions = reply.action.reshape(self._horizon, -1).copy()
        while self._waiting and self._waiting[-1].entered >= first:
            self._waiting.pop()  # the newer one takes its place; others still have ticks of their own
        self._waiting.append(Chunk(self._asked - 1, observed, first, actions, reply))
        return True

    def failed(self, observed: int) -> None:
        """No chunk will come for the observation of tick `observed`."""
        if observed == self.under_way:
            self.under_way = None
            self._misses += 1

    def take(self, tick: int) -> Planned | None:
        """The action to execute at `tick`, or None if no chunk has one."""
        chunk = self._running(tick)
        if chunk is None:
            return None
        index = tick - chunk.observed
        planned = Planned(chunk.number, index, chunk.actions[index], chunk.reply)
        if self._last is None or self._last.chunk != planned.chunk:
            self._entered += 1
        if self._last is not None:
            jump = float(np.linalg.norm(planned.action.astype(np.float64) - self._last.action))
            (self._within if self._last.chunk == planned.chunk else self._seam).add(jump)
        self._last = planned
        return planned

    def statistics(self) -> ChunkStatistics:
        """Of all chunks so far."""
        return ChunkStatistics(self._entered, self._misses, self._seam.value, self._within.value)

    def _running(self, tick: int) -> Chunk | None:
        """The newest chunk that is there at `tick` and has an action for it."""
        while self._waiting and self._waiting[0].entered <= tick:
            self._runs = self._waiting.popleft()
        chunk = self._runs
        return chunk if chunk is not None and tick - chunk.observed < self._horizon else None

    def _end(self, chunk: Chunk) -> int:
        """The tick at which the chunk after `chunk` is due."""
        return min(chunk.entered + self._execute, chunk.observed + self._horizon)
