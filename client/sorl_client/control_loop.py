"""`ControlLoop`: an action at every tick of a robot, in time, whatever the server and the network do."""

from __future__ import annotations

import time
import weakref
from collections import Counter, deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from sorl_client import observation as observations
from sorl_client import parameters
from sorl_client.action import Action, FloatArray
from sorl_client.asker import Asker, Came, ThreadAsker
from sorl_client.chunk_schedule import ChunkSchedule, Planned
from sorl_client.control import Acts, Ask
from sorl_client.errors import DeadlineExceeded, InvalidArgument, InvalidReply, RequestRefused, SorlError
from sorl_client.observation import Observation, Rows
from sorl_client.pace import Pace
from sorl_client.served import Served
from sorl_client.statistics import percentiles
from sorl_client.tick import LateReply, LoopStatistics, Source, Tick

OnMiss = Literal["hold", "stop"] | Callable[[Any], npt.ArrayLike]

SHARE_OF_PERIOD = 0.8  # for the reply, by default; the rest is for observing and moving
RECENT = 10_000  # ticks that the percentiles are over


class Server(Acts, Protocol):
    """The part of `sorl_client.Client` that the loop uses."""

    def models(self) -> list[dict[str, Any]]: ...


class ControlLoop:
    """Asks a server for actions in the background, and has one at every tick, in time. One thread may step it.

    A policy with an `action_horizon` h of 1 is asked at every tick. Of one with a larger h the loop executes k actions,
    one a tick, and asks for the next chunk while the current one runs. A chunk observed at tick t plans ticks t to
    t + h - 1: it is entered when it comes, at the action of the tick that it is then. If it is late, the current chunk
    runs on, to its end.

    Call `start` first, or the ticks until the first reply are misses.

    client    a `Client`; its owner closes it
    ask       the arguments of every request. Without `model` the server's default one is asked. `deadline_ms` is when
              the reply is due, at most h periods; by default in time for its last action. `step` waits as long at most,
              and 80 % of a period if that is more than one
    hz        ticks a second; by default the model's control rate
    action_horizon  h; by default the model's
    execute   k, from 1 to h: after so many actions of a chunk the next one is due; by default h
    ahead     ask so many ticks before that, from 0 to h - 1; 0 waits at the tick itself. By default as many as the 95th
              percentile of the last 128 replies' latencies takes, rounded up
    commit    tell the server, as `committed`, which actions are executed until its reply is expected, and enter the
              chunk after them, which continues what the robot does. Chunks only; `ask.coherence` is its weight
    on_miss   what to do at a tick whose reply is late or an error:
              "hold"      repeat the last fresh action, or do `initial` if there is none yet. Mind what that means where
                          actions are velocities
              "stop"      do `initial`, at this and every later tick, and ask no more until `reset`
              a function  of the observation, (obs_dim,) or a dict of parts (d,), that returns an action,
                          (action_dim,), fast
    initial   (action_dim,); by default zeros
    clock, sleep, asker  replace `time.monotonic`, `time.sleep` and the thread that asks (for tests)

    `client.models()` is asked once, for what is not given. Raises InvalidArgument by a parameter's name, InvalidReply
    if the model's entry lacks its rate or width, or another error of `client.models()`.
    """

    def __init__(
        self,
        client: Server,
        ask: Ask | None = None,
        *,
        hz: float | None = None,
        action_horizon: int | None = None,
        execute: int | None = None,
        ahead: int | None = None,
        commit: bool = True,
        on_miss: OnMiss = "hold",
        initial: npt.ArrayLike | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        asker: Asker | None = None,
    ) -> None:
        ask = Ask() if ask is None else ask
        hz = parameters.HZ.or_none("hz", hz)
        if not (on_miss in ("hold", "stop") if isinstance(on_miss, str) else callable(on_miss)):
            found = parameters.brief(on_miss)
            raise InvalidArgument(f'on_miss: expected "hold", "stop" or a function; found {found}', field="on_miss")
        rest = None if initial is None else _row("initial", initial, None)
        horizon = parameters.AT_LEAST_ONE.or_none("action_horizon", action_horizon)
        if hz is None or rest is None or horizon is None:
            served = Served.of(client.models(), ask.model)
            hz = served.hz if hz is None else hz
            horizon = served.action_horizon if horizon is None else horizon
            rest = np.zeros(served.width, np.float32) if initial is None else _row("initial", initial, served.width)
        execute = parameters.Whole(1, horizon).or_none("execute", execute)
        ahead = parameters.Whole(0, horizon - 1).or_none("ahead", ahead)
        period_ms = 1e3 / hz
        share_ms = SHARE_OF_PERIOD * period_ms
        reply_ms = (horizon - 1) * period_ms + share_ms if ask.deadline_ms is None else ask.deadline_ms
        if not 0.0 < reply_ms <= horizon * period_ms:
            longest = "the period" if horizon == 1 else f"{horizon} periods"
            expected = f"a number of milliseconds above 0, at most {longest} of {period_ms:g}"
            fault = f"expected {expected}; found {reply_ms:g}"
            raise InvalidArgument(f"deadline_ms: {fault}", field="deadline_ms")
        self._client = client
        self._ask = ask
        self._reply_s = reply_ms / 1e3
        self._limit_s = (reply_ms if reply_ms <= period_ms else share_ms) / 1e3
        self._schedule = ChunkSchedule(horizon, execute or horizon, ahead, period_ms / 1e3, commit)
        self._shape = rest.shape if horizon == 1 else (horizon, rest.size)
        self._on_miss = on_miss
        self._rest = rest
        self._clock = clock
        self._asker = ThreadAsker(clock) if asker is None else asker
        weakref.finalize(self, self._asker.close)
        self._pace = Pace(period_ms / 1e3, clock, sleep)
        self._number = 0
        self._sources: Counter[Source] = Counter()
        self._late = 0
        self._latencies_ms: deque[float] = deque(maxlen=RECENT)
        self.reset()

    @property
    def limit_ms(self) -> float:
        """The longest that `step` waits for a reply."""
        return self._limit_s * 1e3

    def reset(self) -> None:
        """Begin anew, as for a new episode: forget the last action and all that is planned, go on after a stop, and let
        a tick begin now."""
        self._last = self._rest
        self._error: SorlError | None = None
        self._schedule.clear()
        self._misses = 0
        self._stopped = False
        self._pace.restart()

    def start(self, observation: Observation, *, seed: int | None = None, timeout_s: float = 10.0) -> None:
        """Begin anew, as `reset` does, and wait for the reply to what the robot observes; it stands still meanwhile.

        The reply is planned from the next tick on. Without `start` the ticks until the first reply are misses: those of
        a round trip, and those of another if the connection has to be opened. Here it is opened before the reply is
        timed, since `ahead` is as long as replies take.

        Until `timeout_s`, what may pass (no connection, overload, no reply within `ask.deadline_ms`) is asked for anew,
        a period later. Raises it after that; RequestRefused or InvalidArgument at once, as `step` does.
        """
        seed = parameters.SEED.or_none("seed", seed)
        timeout_s = parameters.TIMEOUT_S("timeout_s", timeout_s)
        seen = observations.row_of(observation)
        end = self._clock() + timeout_s
        self.reset()
        while True:
            try:
                self._client.models()  # opens the connection
                self._plan_first(seen, seed, end)
            except RequestRefused:
                raise
            except SorlError:
                if self._clock() >= end:
                    raise
                self.wait()
            else:
                self._pace.restart()
                return

    def step(self, observation: Observation, *, seed: int | None = None) -> Tick:
        """What to do at this tick, given what the robot observes. Returns by the tick's deadline.

        The observation is (obs_dim,), or its parts by name, each (d,) or a number, see `Client.act`. It is copied.

        Misses are no errors. What is raised: InvalidArgument for an observation or seed at fault; RequestRefused if the
        server refuses the request (4xx), as for a part that is missing, since it would refuse the next one too; what
        the function `on_miss` raises, or InvalidArgument for an action at fault from it.
        """
        began = self._clock()
        seed = parameters.SEED.or_none("seed", seed)
        seen = observations.row_of(observation)
        number, end = self._number, began + self._limit_s
        self._number += 1
        late = self._take(self._asker.receive(-1, began), number, end)
        if self._stopped:
            return self._tick(number, began, self._rest, "stopped", late=late)
        if self._schedule.is_due(number):
            self._error = None
            committed = self._schedule.ask(number)
            self._asker.ask(number, lambda: self._question(seen, began + self._reply_s, seed, committed))
        if self._schedule.waits(number) and (asked := self._schedule.under_way) is not None:
            late += self._take(self._asker.receive(asked, end), number, end)
        planned = self._schedule.take(number)
        if planned is not None:
            self._last = planned.action
            return self._tick(number, began, planned.action, "fresh", planned=planned, late=late)
        error = self._error or self._too_late()
        if self._on_miss == "hold":
            return self._tick(number, began, self._last, "held", error=error, late=late)
        if self._on_miss == "stop":
            self._stopped = True
            self._schedule.stop()
            return self._tick(number, began, self._rest, "stopped", error=error, late=late)
        action = _row("on_miss", self._on_miss(observations.copy_of(seen)), self._rest.size)
        return self._tick(number, began, action, "fallback", error=error, late=late)

    def wait(self) -> None:
        """Return when the next tick begins: at once if it is late, and then later ticks are shifted."""
        self._pace.wait()

    def statistics(self) -> LoopStatistics:
        """What the loop did so far."""
        ticks = self._sources.total()
        p50, p99 = percentiles(self._latencies_ms, (50, 99)) if ticks else (None, None)
        return LoopStatistics(
            ticks=ticks,
            misses=ticks - self._sources["fresh"],
            by_source={source: self._sources[source] for source in ("fresh", "held", "fallback", "stopped")},
            late=self._late,
            latency_p50_ms=p50,
            latency_p99_ms=p99,
            chunks=self._schedule.statistics(),
        )

    def close(self) -> None:
        """Let the thread end. A reply that is under way is dropped."""
        self._asker.close()

    def __enter__(self) -> ControlLoop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _too_late(self) -> DeadlineExceeded:
        given = self._ask.deadline_ms
        unit = "" if given is None else f" (deadline_ms was {given:g}, in milliseconds)"
        return DeadlineExceeded(f"no reply within the tick's {self.limit_ms:g} ms{unit}")

    def _question(self, observation: Rows, end: float, seed: int | None, committed: FloatArray | None) -> Action:
        """Ask the server; in the background."""
        return self._client.act(
            observation,
            num_candidates=self._ask.num_candidates,
            num_steps=self._ask.num_steps,
            deadline_ms=(end - self._clock()) * 1e3,
            on_late=self._ask.on_late,
            min_quality=self._ask.min_quality,
            seed=seed,
            temperature=self._ask.temperature,
            committed=committed,
            coherence=None if committed is None else self._ask.coherence,
            model=self._ask.model,
        )

    def _plan_first(self, observation: Rows, seed: int | None, end: float) -> None:
        """Ask, wait for the reply until `end` at most, and plan with it from the next tick on."""
        asked = self._clock()
        deadline_ms = parameters.LONGEST_DEADLINE_MS if self._ask.deadline_ms is None else self._ask.deadline_ms
        reply = self._checked(self._question(observation, min(end, asked + deadline_ms / 1e3), seed, None))
        if isinstance(reply, Exception):
            raise reply
        self._schedule.ask(self._number)
        self._schedule.came(self._number, reply, self._clock() - asked, self._number)

    def _checked(self, outcome: Action | Exception) -> Action | Exception:
        """What came, or InvalidReply for an action of another shape than this loop's."""
        if isinstance(outcome, Exception) or outcome.action.shape == self._shape:
            return outcome
        return InvalidReply(f"expected an action of shape {self._shape}, got {outcome.action.shape}")

    def _take(self, came: list[Came], number: int, end: float) -> tuple[LateReply, ...]:
        """Plan with the replies that came at tick `number`, in time for it if by `end`; returns those that are late."""
        late = []
        for one in came:
            found = self._checked(one.outcome)
            if isinstance(found, Exception):
                self._schedule.failed(one.number)
                if isinstance(found, RequestRefused) or not isinstance(found, SorlError):
                    raise found
                self._error = found
            elif not self._schedule.came(one.number, found, one.at - one.asked, number + (one.at > end)):
                late.append(LateReply(one.number, (one.at - one.asked) * 1e3, found))
        self._late += len(late)
        return tuple(late)

    def _tick(
        self,
        number: int,
        began: float,
        action: FloatArray,
        source: Source,
        *,
        planned: Planned | None = None,
        error: SorlError | None = None,
        late: tuple[LateReply, ...] = (),
    ) -> Tick:
        self._misses = 0 if source == "fresh" else self._misses + 1
        latency_ms = (self._clock() - began) * 1e3
        self._sources[source] += 1
        self._latencies_ms.append(latency_ms)
        # A copy: the caller may change it in place, and the next ticks may need it again.
        return Tick(
            number,
            action.copy(),
            source,
            latency_ms,
            self._misses,
            None if planned is None else planned.reply,
            error,
            late,
            None if planned is None else planned.chunk,
            None if planned is None else planned.index,
        )


def _row(name: str, value: npt.ArrayLike, width: int | None) -> FloatArray:
    """A new array: a row of finite numbers, of `width` if that is not None. Raises InvalidArgument by `name`."""
    row = parameters.array(name, value)
    if row.ndim != 1 or width not in (None, row.size):
        expected = "one row of numbers" if width is None else f"one row of {width} numbers"
        raise InvalidArgument(f"{name}: expected {expected}; found shape {row.shape}", field=name)
    return row
