"""The load beside the robots: how much saturates the server, and an open loop that lasts until it is ended."""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import wrk
from bench.fleet.interrupts import children_ignore_ctrl_c
from bench.generator import in_own_process
from bench.openloop import TICK_SECONDS, GeneratorTooSlow, OpenLoad, Samples, send
from bench.serving.bodies import observations
from bench.serving.overload import fixed_budget, peak_goodput
from bench.serving.setup import ServeBenchConfig, Setup
from policy import Budget, Policy

SEGMENT_SECONDS = 2.0
"""The load is sent in segments of this length, each beginning where the one before ends."""
SEEDS = 2**20
"""Seeds of segments for a seed of a load."""
LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class _OneBudget(Setup):
    """A setup whose requests all are of the same rows and ask for one budget, whatever a section asks for."""

    budget: Budget
    rows: int

    def fields(self, **more: Any) -> dict[str, Any]:
        n, m = self.budget.num_candidates, self.budget.num_steps
        rows = observations(self.policy.spec.obs_dim, self.rows)
        return super().fields(**more | {"observation": rows, "num_candidates": n, "num_steps": m})


def saturation(url: str, policy: Policy, model: Path, rows: int, deadline_ms: float, seconds: float) -> float:
    """Requests/s of the policy's default budget that the server answers within the deadline at most.

    Args:
        rows: observations of each request.
        seconds: of each of the six measurements.

    Raises:
        FileNotFoundError: wrk is not installed.
        ValueError: it can't be measured.
    """
    wrk.require_wrk()
    config = ServeBenchConfig(seconds=seconds, deadline_ms=deadline_ms)
    with tempfile.TemporaryDirectory() as folder:
        setup = _OneBudget(config, Path(folder), policy, model, [], policy.spec.default_budget, rows)
        try:
            return peak_goodput(setup, fixed_budget(setup, url, deadline_ms))
        except GeneratorTooSlow as error:
            raise ValueError(f"saturation can't be measured, say it with --saturation: {error}") from None


@dataclass(frozen=True)
class _Endless:
    """A load for another process. It says by the file `begun` that it sends, and sends while the file `wanted` exists.

    `segment` is the first segment; the next ones have seeds of their own.
    """

    segment: OpenLoad
    begun: Path
    wanted: Path


@contextmanager
def loading(load: OpenLoad) -> Iterator[Callable[[], list[Samples]]]:
    """Context manager: sends requests as `load` says, but for as long as the block lasts, from another process.

    Yields a function that ends the load, waits for its last segment, and returns each segment's results.

    Raises:
        RuntimeError: the other process failed.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        endless = _Endless(replace(load, seconds=SEGMENT_SECONDS), folder / "begun", folder / "wanted")
        endless.wanted.touch()
        with children_ignore_ctrl_c():
            running = stack.enter_context(in_own_process(_send_while_wanted, endless))
            stack.callback(endless.wanted.unlink, missing_ok=True)
        while not endless.begun.exists():
            if wait([running], timeout=LOOK_SECONDS).done:
                raise RuntimeError("the load did not begin") from running.exception()

        def finish() -> list[Samples]:
            endless.wanted.unlink(missing_ok=True)
            return running.result()

        yield finish


async def _send_while_wanted(endless: _Endless) -> list[Samples]:
    sending: list[asyncio.Task[Samples]] = []
    parent = multiprocessing.parent_process()
    while endless.wanted.exists() and (parent is None or parent.is_alive()):
        segment = replace(endless.segment, seed=SEEDS * endless.segment.seed + len(sending))
        sending.append(asyncio.create_task(send(segment, TICK_SECONDS)))
        endless.begun.touch()
        # Segments overlap: while one waits for its last answers the next sends, as it has the same lead.
        await asyncio.sleep(segment.seconds)
    return await asyncio.gather(*sending)


def joined(segments: Sequence[Samples]) -> Samples:
    """The samples of all segments, in their order. Intended times count from the start of each segment."""
    return Samples(*(np.concatenate([getattr(one, field.name) for one in segments]) for field in fields(Samples)))
