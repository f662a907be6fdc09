"""Simulated robots, each in a process of its own, in real time: a tick without an answer in time is a miss."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from bench.fleet.client import NotingClient
from bench.fleet.interrupts import children_ignore_ctrl_c


@dataclass(frozen=True)
class Robot:
    """What a robot's process is told.

    Attributes:
        url: the server's.
        task: OGBench single-task name.
        hz: ticks/s.
        deadline_ms: deadline of every request, and the longest that a tick waits.
        action_horizon: the policy's.
        max_steps: ticks after which an episode ends; None: where the task ends it.
    """

    url: str
    task: str
    hz: float
    deadline_ms: float
    action_horizon: int = 1
    max_steps: int | None = None


@dataclass(frozen=True)
class Drive:
    """An episode to drive: its seed, and the fields that every request has besides observation and deadline."""

    seed: int
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Driven:
    """An episode that was driven.

    Attributes:
        seed: its seed.
        success: the last tick's info["success"].
        ticks: how many there were.
        misses: those that had no answer in time, and repeated the last action.
        failed: requests that ended with another error than a refusal or a missed deadline.
        granted: (N, M) of every answer.
        degraded: answers with less compute than was asked for, or first granted.
        latencies_ms: of every answer, from the call to the reply.
        cpu_seconds: CPU time of the robot's process, everything included.
        simulation_seconds: the part of it that the simulation's steps took.
        hz: ticks/s as they were; NaN for a single tick.
    """

    seed: int
    success: bool
    ticks: int
    misses: int
    failed: int
    granted: list[tuple[int, int]]
    degraded: int
    latencies_ms: list[float]
    cpu_seconds: float
    simulation_seconds: float
    hz: float


class Fleet:
    """Robots that drive, one episode each at a time. `robots` makes one."""

    def __init__(self, pipes: Sequence[Pipe]) -> None:
        self._pipes = pipes

    def drive(self, drives: Iterable[Drive]) -> Iterator[Driven]:
        """Drive all episodes; yields them as they end.

        Raises:
            RuntimeError: a robot's process ended, or its requests were refused as wrong.
        """
        left = iter(drives)
        busy = []
        for pipe, drive in zip(self._pipes, left, strict=False):
            pipe.send(drive)
            busy.append(pipe)
        while busy:
            for ready in wait(busy):
                assert isinstance(ready, Pipe)
                outcome = _receive(ready)
                if (following := next(left, None)) is not None:
                    ready.send(following)
                else:
                    busy.remove(ready)
                yield outcome


@contextmanager
def robots(robot: Robot, count: int) -> Iterator[Fleet]:
    """Context manager: starts `count` robots, and ends their processes with the block, whatever they do.

    Raises:
        RuntimeError: a robot did not start; its process has printed why.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        with children_ignore_ctrl_c():
            for number in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(robot, theirs), name=f"robot-{number}", daemon=True)
                process.start()
                theirs.close()
                pipes.append(ours)
                processes.append(process)
        for pipe in pipes:
            _receive(pipe)
        yield Fleet(pipes)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        for pipe in pipes:
            pipe.close()


def drive_episode(env: Any, robot: Robot, drive: Drive) -> Driven:
    """Drive one episode in real time by a `ControlLoop`, which repeats the last action at a miss.

    Raises:
        RequestRefused: the server refuses the requests as wrong.
        OSError: there is no server.
    """
    from sorl_client import Ask, ControlLoop
    from sorl_client.control import run_in_loop
    from sorl_client.episodes import EpisodeSeeds

    began, simulation = time.process_time(), _MeteredEnvironment(env)
    with (
        closing(NotingClient(robot.url)) as client,
        ControlLoop(
            client,
            Ask(deadline_ms=robot.deadline_ms, **drive.fields),
            hz=robot.hz,
            action_horizon=robot.action_horizon,
            initial=np.zeros(env.action_space.shape),
        ) as loop,
    ):
        # The load is there from the first tick on: a first reply that is waited for would hide misses.
        seeds = EpisodeSeeds(drive.seed)
        episode = run_in_loop(simulation, loop, seeds, start=False, max_steps=robot.max_steps)
        return Driven(
            seed=drive.seed,
            success=episode.success,
            ticks=episode.steps,
            misses=episode.misses,
            failed=client.failed,
            granted=client.granted,
            degraded=client.degraded,
            latencies_ms=client.latencies_ms,
            cpu_seconds=time.process_time() - began,
            simulation_seconds=simulation.cpu_seconds,
            hz=simulation.hz,
        )


class _MeteredEnvironment:
    """An environment, and when it was stepped for what CPU time."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self._times: list[float] = []
        self.cpu_seconds = 0.0

    @property
    def hz(self) -> float:
        """Steps/s from the first to the last; NaN for a single one."""
        steps = len(self._times) - 1
        return steps / (self._times[-1] - self._times[0]) if steps > 0 else float("nan")

    def step(self, action: Any) -> Any:
        self._times.append(time.monotonic())
        began = time.thread_time()
        result = self._env.step(action)
        self.cpu_seconds += time.thread_time() - began
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)


def _work(robot: Robot, pipe: Pipe) -> None:
    """A robot's process: says when it is ready, then drives what it is told until the pipe is closed."""
    from sorl_client.episodes import make_env

    with closing(make_env(robot.task)) as env:
        pipe.send(None)
        while True:
            try:
                drive = pipe.recv()
            except EOFError:
                return
            try:
                pipe.send(drive_episode(env, robot, drive))
            except Exception as error:
                pipe.send(f"{type(error).__name__}: {error}")


def _receive(pipe: Pipe) -> Any:
    """What a robot says. Raises RuntimeError if that is an error, or its process has ended."""
    try:
        outcome = pipe.recv()
    except (EOFError, ConnectionResetError):
        raise RuntimeError("a robot's process has ended; what it printed says why") from None
    if isinstance(outcome, str):
        raise RuntimeError(f"a robot cannot go on: {outcome}")
    return outcome
