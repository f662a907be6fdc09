"""Plain values about time: deadlines, what they leave for compute, predicted costs, and when things happened.

All are in seconds. Points in time are on `time.monotonic`.
"""

from __future__ import annotations

from typing import NamedTuple


class Deadline(NamedTuple):
    """When a request must be done.

    Attributes:
        reply: the client expects the reply at this time.
        compute: compute must end at this time, so that the reply can still be written and sent by `reply`.
    """

    reply: float
    compute: float


class TimeLeft(NamedTuple):
    """Seconds of compute that a deadline leaves.

    Attributes:
        now: behind what is queued and running.
        idle: if nothing were queued or running, but the server were as slow as it is now.
        best: on an idle server at its best.
    """

    now: float
    idle: float
    best: float


class CostEstimate(NamedTuple):
    """Predicted seconds of a request on its engine.

    Attributes:
        rows: network rows, observations x candidates.
        per_row: of one row, with all its steps and critics.
        fixed: of the request in every batch that holds part of it.
        per_call: of a call of the engine, whatever is in it.
        margin: factor, at least 1, by which deadlines and batch lengths must allow for the prediction's error.
    """

    rows: int
    per_row: float = 0.0
    fixed: float = 0.0
    per_call: float = 0.0
    margin: float = 1.0

    def seconds(self, rows_done: int = 0) -> float:
        """What is left after `rows_done` rows, without the engine's call."""
        return self.fixed + (self.rows - rows_done) * self.per_row

    def rows_within(self, seconds: float) -> int:
        """How many rows can be computed in `seconds`."""
        spare = seconds - self.fixed
        if spare < 0:
            return 0
        return self.rows if self.per_row * self.rows <= spare else int(spare / self.per_row)


class BatchSize(NamedTuple):
    """What the cost of a batch depends on: sums over its requests.

    Attributes:
        observations: B.
        actor_rows: B N M, evaluations of the actor.
        critic_rows: B N, network rows.
    """

    observations: int
    actor_rows: int
    critic_rows: int


class JobTimes:
    """When a job went through the scheduler; 0.0 until it has come that far.

    Attributes:
        submitted: it was accepted.
        started: its first batch began.
        finished: its last batch ended.
    """

    __slots__ = ("finished", "started", "submitted")

    def __init__(self, submitted: float) -> None:
        self.submitted = submitted
        self.started = self.finished = 0.0
