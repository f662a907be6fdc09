"""The control loop of one episode: observe, ask the server, act, at the environment's rate.

A real robot does not wait; a simulation does. An action that comes after its tick was over is applied late: the
simulated world stands still meanwhile, later ticks are shifted, and the tick counts as a deadline miss. A tick that
gets no action because its deadline was exceeded holds: the environment is given zeros, which in OGBench command no
motion (no torque, for legged robots), and the tick counts as a miss too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sorl_client import episodes
from sorl_client.action import Action
from sorl_client.conversation import OnLate
from sorl_client.errors import DeadlineExceeded


class Acts(Protocol):
    """What the loop needs of `sorl_client.Client`."""

    def act(
        self,
        observation: npt.ArrayLike,
        *,
        num_candidates: int | None = None,
        num_steps: int | None = None,
        deadline_ms: float | None = None,
        on_late: OnLate = "degrade",
        seed: int | list[int] | None = None,
        temperature: float | None = None,
        model: str | None = None,
    ) -> Action: ...


@dataclass(frozen=True)
class Ask:
    """What every tick asks of the server, see `Client.act`."""

    model: str | None = None
    num_candidates: int | None = None
    num_steps: int | None = None
    deadline_ms: float | None = None
    on_late: OnLate = "degrade"
    temperature: float | None = None


@dataclass(frozen=True, eq=False)
class Episode:
    """What happened: `actions` as applied, (steps, action_dim); `latencies_ms` of each tick's call, misses included.

    `misses` are ticks without an action within `limit_ms` of their observation; `holds`, which are among them, are
    ticks that got none at all. `degraded` ticks got less compute than asked for. `engine` and `model_version` are of
    the last reply (None if there was none).
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
    """Drive one episode to its end: the goal, the environment's time limit, or `max_steps`.

    A tick is missed after `ask.deadline_ms`, or after the control period if that is None, with `realtime` or without;
    `realtime` only decides whether the loop waits for the next tick. Success is the last step's info["success"].
    Errors of the client other than DeadlineExceeded are the caller's.
    """
    period_s = 1.0 / episodes.control_hz(env)
    limit_ms = period_s * 1e3 if ask.deadline_ms is None else ask.deadline_ms
    observation = episodes.reset(env, seeds.episode)
    hold = np.zeros(env.action_space.shape, np.float32)
    latencies: list[float] = []
    actions: list[npt.NDArray[np.float32]] = []
    misses = holds = degraded = 0
    reply: Action | None = None
    success = False
    tick = clock()
    while max_steps is None or len(actions) < max_steps:
        asked, held = clock(), False
        try:
            reply = client.act(
                observation,
                num_candidates=ask.num_candidates,
                num_steps=ask.num_steps,
                deadline_ms=ask.deadline_ms,
                on_late=ask.on_late,
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
        misses += held or latencies[-1] > limit_ms  # the client may give up before the time is spent
        actions.append(action)
        raw, _, terminated, truncated, info = env.step(action)
        observation = np.asarray(raw, dtype=np.float32)
        success = bool(info["success"])
        if terminated or truncated:
            break
        tick += period_s
        if realtime and (early := tick - clock()) > 0.0:
            sleep(early)
        else:
            tick = clock()  # late: ticks shift, none is skipped or hurried to catch up
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
