"""`ControlLoop`: an action at every tick of a robot, in time, whatever the server and the network do."""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sorl_client import parameters
from sorl_client.action import Action, FloatArray
from sorl_client.control import Acts, Ask
from sorl_client.errors import DeadlineExceeded, InvalidArgument, InvalidReply, RequestRefused, SorlError
from sorl_client.pace import Pace
from sorl_client.statistics import percentiles

Source = Literal["fresh", "held", "fallback", "stopped"]
OnMiss = Literal["hold", "stop"] | Callable[[FloatArray], npt.ArrayLike]

SHARE_OF_PERIOD = 0.8  # for the reply, by default; the rest is for observing and moving
RECENT = 10_000  # ticks that the percentiles are over


class Server(Acts, Protocol):
    """The part of `sorl_client.Client` that the loop uses."""

    def models(self) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, eq=False)
class LateReply:
    """A reply that came after its tick's action was chosen. It is reported once, and never executed.

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
    source      "fresh": the reply to this tick's observation; else a miss: "held", "fallback" or "stopped"
    latency_ms  from the call of `step` to its return
    misses      misses in a row up to this tick; 0 if it is fresh
    reply       the reply, if fresh
    error       why it is not fresh; None if fresh, and for a loop that has stopped before
    late        late replies that came since the last tick
    """

    number: int
    action: FloatArray
    source: Source
    latency_ms: float
    misses: int
    reply: Action | None
    error: SorlError | None
    late: tuple[LateReply, ...]


@dataclass(frozen=True)
class LoopStatistics:
    """What a loop did so far.

    misses          ticks that were not fresh
    late            replies that came after their tick
    latency_p50_ms  percentiles of the ticks' latencies, misses included, over the last 10,000; None without a tick
    """

    ticks: int
    misses: int
    by_source: dict[Source, int]
    late: int
    latency_p50_ms: float | None
    latency_p99_ms: float | None


class Came(NamedTuple):
    """What came of the question of tick `number`; when it was asked and when it came, on the loop's clock."""

    number: int
    outcome: Action | Exception
    asked: float
    at: float


class Asker(Protocol):
    """Asks in the background, for one tick at a time."""

    def ask(self, number: int, question: Callable[[], Action]) -> None:
        """Ask for tick `number`, as soon as the question before has its answer. Replaces a question that waits."""

    def receive(self, number: int, until: float) -> list[Came]:
        """What came since the last call, in its order. Waits for tick `number`'s, at most until a time of the clock;
        number -1 waits for nothing."""

    def close(self) -> None: ...


class ControlLoop:
    """Asks a server for an action at every tick, in the background, and always has one in time. One thread may step it.

    client    a `Client`; its owner closes it
    ask       the arguments of every request. `deadline_ms` is how long `step` takes at most, and at most the period; by
              default 80 % of it
    hz        ticks a second; by default the model's control rate
    on_miss   what to do at a tick whose reply is late or an error:
              "hold"      repeat the last fresh action, or do `initial` if there is none yet. Mind what that means where
                          actions are velocities
              "stop"      do `initial`, at this and every later tick, and ask no more until `reset`
              a function  of the observation, (obs_dim,), that returns an action, (action_dim,), fast
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
        if hz is None or rest is None:
            rate, width = _rate_and_width(client.models(), ask.model)
            hz = rate if hz is None else hz
            rest = np.zeros(width, np.float32) if initial is None else _row("initial", initial, width)
        period_ms = 1e3 / hz
        limit_ms = SHARE_OF_PERIOD * period_ms if ask.deadline_ms is None else ask.deadline_ms
        if not 0.0 < limit_ms <= period_ms:
            fault = f"expected a number above 0, at most the period of {period_ms:g} ms; found {limit_ms:g}"
            raise InvalidArgument(f"deadline_ms: {fault}", field="deadline_ms")
        self._client = client
        self._ask = ask
        self._limit_s = limit_ms / 1e3
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

    def reset(self) -> None:
        """Begin anew, as for a new episode: forget the last action, go on after a stop, and let a tick begin now."""
        self._last = self._rest
        self._misses = 0
        self._stopped = False
        self._pace.restart()

    def step(self, observation: npt.ArrayLike, *, seed: int | None = None) -> Tick:
        """What to do at this tick, given what the robot observes, (obs_dim,). Returns by the tick's deadline.

        Misses are no errors. What is raised: InvalidArgument for an observation or seed at fault; RequestRefused if the
        server refuses the request (4xx), since it would refuse the next one too; what the function `on_miss` raises, or
        InvalidArgument for an action at fault from it.
        """
        began = self._clock()
        seed = parameters.SEED.or_none("seed", seed)
        seen = _row("observation", observation, None)
        number, end = self._number, began + self._limit_s
        self._number += 1
        if self._stopped:
            late = self._take(self._asker.receive(-1, began))[1]
            return self._tick(number, began, self._rest, "stopped", late=late)
        self._asker.ask(number, lambda: self._question(seen, end, seed))
        outcome, late = self._take(self._asker.receive(number, end), number, end)
        # A chunk, of several actions in a row, would be taken apart here.
        if outcome is not None and not isinstance(outcome, SorlError):
            self._last = outcome.action
            return self._tick(number, began, outcome.action, "fresh", reply=outcome, late=late)
        error = outcome or DeadlineExceeded(f"no reply within the tick's {self._limit_s * 1e3:g} ms")
        if self._on_miss == "hold":
            return self._tick(number, began, self._last, "held", error=error, late=late)
        if self._on_miss == "stop":
            self._stopped = True
            return self._tick(number, began, self._rest, "stopped", error=error, late=late)
        action = _row("on_miss", self._on_miss(seen), self._rest.size)
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

    def _question(self, observation: FloatArray, end: float, seed: int | None) -> Action:
        """Ask the server; in the background."""
        return self._client.act(
            observation,
            num_candidates=self._ask.num_candidates,
            num_steps=self._ask.num_steps,
            deadline_ms=(end - self._clock()) * 1e3,
            on_late=self._ask.on_late,
            seed=seed,
            temperature=self._ask.temperature,
            model=self._ask.model,
        )

    def _take(
        self, came: list[Came], number: int = -1, end: float = 0.0
    ) -> tuple[Action | SorlError | None, tuple[LateReply, ...]]:
        """The outcome of tick `number` if it came by `end`, and the replies that are late."""
        outcome: Action | SorlError | None = None
        late = []
        for one in came:
            found = one.outcome
            if isinstance(found, Exception):
                if isinstance(found, RequestRefused) or not isinstance(found, SorlError):
                    raise found
            elif found.action.shape != self._rest.shape:
                found = InvalidReply(f"expected an action of shape {self._rest.shape}, got {found.action.shape}")
            if one.number == number and one.at <= end:
                outcome = found
            elif not isinstance(found, Exception):
                late.append(LateReply(one.number, (one.at - one.asked) * 1e3, found))
        self._late += len(late)
        return outcome, tuple(late)

    def _tick(
        self,
        number: int,
        began: float,
        action: FloatArray,
        source: Source,
        *,
        reply: Action | None = None,
        error: SorlError | None = None,
        late: tuple[LateReply, ...] = (),
    ) -> Tick:
        self._misses = 0 if source == "fresh" else self._misses + 1
        latency_ms = (self._clock() - began) * 1e3
        self._sources[source] += 1
        self._latencies_ms.append(latency_ms)
        # A copy: the caller may change it in place, and the next ticks may need it again.
        return Tick(number, action.copy(), source, latency_ms, self._misses, reply, error, late)


class ThreadAsker:
    """An `Asker` with one daemon thread: one question at a time is under way, and the newest waits for it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waiting: tuple[int, Callable[[], Action], float] | None = None
        self._came: list[Came] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def ask(self, number: int, question: Callable[[], Action]) -> None:
        """See `Asker`."""
        with self._changed:
            if self._closed:
                raise RuntimeError("the control loop is closed")
            self._waiting = number, question, self._clock()
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="sorl-control-loop", daemon=True)
                self._thread.start()

    def receive(self, number: int, until: float) -> list[Came]:
        """See `Asker`."""
        with self._changed:
            while all(one.number != number for one in self._came) and (left_s := until - self._clock()) > 0.0:
                self._changed.wait(left_s)
            came, self._came = self._came, []
        return came

    def close(self) -> None:
        """See `Asker`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._waiting is None and not self._closed:
                    self._changed.wait()
                if self._closed or self._waiting is None:
                    return
                number, question, asked = self._waiting
                self._waiting = None
            outcome: Action | Exception
            try:
                outcome = question()
            except Exception as error:
                outcome = error
            with self._changed:
                self._came.append(Came(number, outcome, asked, self._clock()))
                self._changed.notify_all()
            del question, outcome  # they would live until the next question


def _row(name: str, value: npt.ArrayLike, width: int | None) -> FloatArray:
    """A copy of a row of finite numbers, of `width` if that is not None. Raises InvalidArgument by `name`."""
    row = parameters.observation(name, value)
    if row.ndim != 1 or width not in (None, row.size):
        expected = "one row of numbers" if width is None else f"one row of {width} numbers"
        raise InvalidArgument(f"{name}: expected {expected}; found shape {row.shape}", field=name)
    return row.copy()


def _rate_and_width(models: list[dict[str, Any]], name: str | None) -> tuple[float, int]:
    """The control rate, in Hz, and the actions' width, of the model called `name`, or of the only one."""
    found = [model for model in models if name in (None, model["name"])]
    if len(found) != 1:
        served = ", ".join(str(model["name"]) for model in models) or "none"
        raise InvalidArgument(f"model: expected one of those served: {served}; found {name!r}", field="model")
    try:
        return (
            parameters.HZ("control_hz", found[0].get("control_hz")),
            parameters.AT_LEAST_ONE("action_dim", found[0].get("action_dim")),
        )
    except InvalidArgument as error:
        raise InvalidReply(f"model {found[0]['name']!r}: {error.detail}") from error
