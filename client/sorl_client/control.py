"""One episode of a simulated robot: observe, request an action, apply it, at the environment's rate.

`run_episode` asks and waits, as a simulation can, unlike a real robot. An action that arrives after its tick is applied
late: the simulation stands still until then, later ticks are shifted, and the tick counts as a deadline miss. A tick
whose deadline is exceeded gets no action and holds: the environment gets zeros, which command no motion in OGBench (no
torque for legged robots). It counts as a miss too.

`run_in_loop` waits for the first reply only: from then on a `ControlLoop` has an action for every tick.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from sorl_client import episodes, parameters
from sorl_client.action import Action
from sorl_client.chunk_schedule import ChunkStatistics
from sorl_client.conversation import OnLate
from sorl_client.errors import DeadlineExceeded
from sorl_client.pace import Pace

if TYPE_CHECKING:  # it imports `Ask` from here
    from sorl_client.control_loop import ControlLoop


class Acts(Protocol):
    """The part of `sorl_client.Client` that the loop uses."""

    def act(
        self,
        observation: Any,  # an `Observation`; of a loop that is given vectors only, vectors
        *,
        num_candidates: int | None = None,
        num_steps: int | None = None,
        deadline_ms: float | None = None,
        on_late: OnLate = "degrade",
        min_quality: float | None = None,
        seed: int | list[int] | None = None,
        temperature: float | None = None,
        committed: npt.ArrayLike | None = None,
        coherence: float | None = None,
        model: str | None = None,
    ) -> Action: ...


@dataclass(frozen=True)
class Ask:
    """The arguments of every tick's request, see `Client.act`. Without `model`, the server's default one is asked.

    Raises InvalidArgument by a field's name.
    """

    model: str | None = None
    num_candidates: int | None = None
    num_steps: int | None = None
    deadline_ms: float | None = None
    on_late: OnLate = "degrade"
    min_quality: float | None = None
    temperature: float | None = None
    coherence: float | None = None

    def __post_init__(self) -> None:
        ranges: dict[str, parameters.Whole | parameters.Real] = {
            "num_candidates": parameters.BUDGET,
            "num_steps": parameters.BUDGET,
            "deadline_ms": parameters.DEADLINE_MS,
            "min_quality": parameters.SHARE,
            "temperature": parameters.TEMPERATURE,
            "coherence": parameters.SHARE,
        }
        for name, allowed in ranges.items():
            object.__setattr__(self, name, allowed.or_none(name, getattr(self, name)))


@dataclass(frozen=True, eq=False)
class Episode:
    """The record of one episode.

    latencies_ms           duration of each tick's call in ms, misses included
    misses                 ticks that had no action within `limit_ms` of their observation
    holds                  ticks that got no action at all; they are misses too
    degraded               ticks that got less compute than requested
    actions                the applied actions, (steps, action_dim)
    engine, model_version  of the last reply; None if there was none
    chunks                 what came of the chunks; None where the simulation waited for each action
    start_ms               how long the robot stood still for its first reply; None where the first tick asked for it
    """

    episode: int
    success: bool
    steps: int
    latencies_ms: list[float]
    limit_ms: float
    misses: int
    holds: int
    degraded: int
    actions: npt.NDArray[np.float32]
    engine: str | None
    model_version: str | None
    chunks: ChunkStatistics | None = None
    start_ms: float | None = None


def run_episode(
    env: Any,
    client: Acts,
    seeds: episodes.EpisodeSeeds,
    ask: Ask,
    *,
    realtime: bool = True,
    max_steps: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Episode:
    """Drive one episode until the goal, the environment's time limit, or `max_steps`.

    A tick is missed after `ask.deadline_ms`, or after the control period if that is None. With `realtime` the loop also
    waits for the next tick. Success is the last step's info["success"]. Raises the client's errors, except
    DeadlineExceeded, and InvalidArgument for a `max_steps` that is no integer of at least 0.
    """
    max_steps = parameters.COUNT.or_none("max_steps", max_steps)
    period_s = 1.0 / episodes.control_hz(env)
    limit_ms = period_s * 1e3 if ask.deadline_ms is None else ask.deadline_ms
    observation = episodes.reset(env, seeds.episode)
    hold = np.zeros(env.action_space.shape, np.float32)
    latencies: list[float] = []
    actions: list[npt.NDArray[np.float32]] = []
    misses = holds = degraded = 0
    reply: Action | None = None
    success = False
    pace = Pace(period_s, clock, sleep)
    while max_steps is None or len(actions) < max_steps:
        asked, held = clock(), False
        try:
            reply = client.act(
                observation,
                num_candidates=ask.num_candidates,
                num_steps=ask.num_steps,
                deadline_ms=ask.deadline_ms,
                on_late=ask.on_late,
                min_quality=ask.min_quality,
                seed=seeds.action(len(actions)),
                temperature=ask.temperature,
                model=ask.model,
            )
            action = reply.action
            degraded += bool(reply.degraded)
        except DeadlineExceeded:
            action, held = hold, True
        latencies.append((clock() - asked) * 1e3)
        holds += held
        misses += held or latencies[-1] > limit_ms  # the client may give up before the deadline
        actions.append(action)
        raw, _, terminated, truncated, info = env.step(action)
        observation = np.asarray(raw, dtype=np.float32)
        success = bool(info["success"])
        if terminated or truncated:
            break
        if realtime:
            pace.wait()
    return Episode(
        episode=seeds.episode,
        success=success,
        steps=len(actions),
        latencies_ms=latencies,
        limit_ms=limit_ms,
        misses=misses,
        holds=holds,
        degraded=degraded,
        actions=np.stack(actions) if actions else np.zeros((0, *hold.shape), np.float32),
        engine=reply.engine if reply else None,
        model_version=reply.model_version if reply else None,
    )


def run_in_loop(
    env: Any, loop: ControlLoop, seeds: episodes.EpisodeSeeds, *, start: bool = True, max_steps: int | None = None
) -> Episode:
    """Drive one episode in real time with a new `loop`, until the goal, the environment's time limit or `max_steps`.

    The simulation waits for no reply, as a robot does not, but with `start` for the first. Latencies are those of
    ticks. A miss is a tick that was not fresh, and all misses hold. Raises what `loop.start` and `loop.step` do, and
    InvalidArgument for a `max_steps` that is no integer of at least 0.
    """
    max_steps = parameters.COUNT.or_none("max_steps", max_steps)
    observation = episodes.reset(env, seeds.episode)
    actions: list[npt.NDArray[np.float32]] = []
    latencies: list[float] = []
    degraded = 0
    success = False
    reply: Action | None = None
    began = time.perf_counter()
    if start:
        loop.start(observation, seed=seeds.action(0))
    else:
        loop.reset()
    started = time.perf_counter()
    while max_steps is None or len(actions) < max_steps:
        tick = loop.step(observation, seed=seeds.action(len(actions)))
        latencies.append(tick.latency_ms)
        actions.append(tick.action)
        reply = reply if tick.reply is None else tick.reply
        degraded += bool(tick.reply is not None and tick.reply.degraded)
        raw, _, terminated, truncated, info = env.step(tick.action)
        observation = np.asarray(raw, dtype=np.float32)
        success = bool(info["success"])
        if terminated or truncated:
            break
        loop.wait()
    statistics = loop.statistics()
    return Episode(
        episode=seeds.episode,
        success=success,
        steps=len(actions),
        latencies_ms=latencies,
        limit_ms=loop.limit_ms,
        misses=statistics.misses,
        holds=statistics.misses,
        degraded=degraded,
        actions=np.stack(actions) if actions else np.zeros((0, *env.action_space.shape), np.float32),
        engine=None if reply is None else reply.engine,
        model_version=None if reply is None else reply.model_version,
        chunks=statistics.chunks,
        start_ms=(started - began) * 1e3 if start else None,
    )
