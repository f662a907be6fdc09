"""`Client` and `AsyncClient`: request actions from a policy server."""

from __future__ import annotations

import random as random_module
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, TypeVar

import anyio
import anyio.abc
import httpx
import numpy.typing as npt

from sorl_client import wire
from sorl_client.action import Action
from sorl_client.circuit import CircuitBreaker
from sorl_client.conversation import Arrival, Conversation, Effect, Exchange, OnLate, Outcome, Pause, Send
from sorl_client.hedging import Hedge
from sorl_client.observation import Observation
from sorl_client.retry import RetryPolicy
from sorl_client.threads import Threads

T = TypeVar("T")
# What came of a request; an error that is not the network's is raised by the call.
Came = tuple[httpx.Request, Outcome | Exception]


class Client:
    """A client of one policy server. It keeps connections open between calls; threads may share it.

    url         the server's URL, with or without a path prefix: "http://127.0.0.1:8000"
    api_key     sent as `Authorization: Bearer ...`
    timeout_s   without a deadline: the longest that a call takes, in seconds, over all attempts
    transit_ms  the least time to reserve for the network, in ms. The deadline sent to the server is shorter by what
                was measured lately, or by this if that is less, or nothing is measured yet
    retry       how often, and when, to send again after 429, 503 and broken connections
    hedge       True or a `Hedge`: send a request a second time if its reply is late; the first good answer wins
    breaker     a `CircuitBreaker`: fail at once while the server keeps failing; None: always try
    media_type  "application/msgpack" (small and exact) or "application/json" (readable in transit)
    transport, clock, sleep, random  replace the network, `time.monotonic`, `time.sleep` and `random.random` (for tests)

    Raises InvalidArgument if `timeout_s` or `transit_ms` is out of range, or `hedge` or `breaker` of another type.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 10.0,
        transit_ms: float = 1.0,
        retry: RetryPolicy | None = None,
        hedge: bool | Hedge = False,
        breaker: CircuitBreaker | None = None,
        media_type: wire.MediaType = wire.MSGPACK,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._conversation = Conversation(
            url,
            api_key=api_key,
            timeout_s=timeout_s,
            transit_ms=transit_ms,
            retry=retry or RetryPolicy(),
            hedge=hedge,
            breaker=breaker,
            media_type=media_type,
            clock=clock,
            random=random,
        )
        self._http = httpx.Client(transport=transport)
        self._clock = clock
        self._sleep = sleep
        self._threads = Threads()
        weakref.finalize(self, self._threads.close)

    def act(
        self,
        observation: Observation,
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
        model_version: str | None = None,
        priority: int | None = None,
        return_candidates: bool = False,
        request_id: str | None = None,
    ) -> Action:
        """The best action for `observation`, within a budget or by a deadline.

        observation                (obs_dim,) or (B, obs_dim). Or its parts by name, where the policy has
                                   `observation_keys`: each (d,), or (B, d) in all of them; a part of one number may be
                                   that number. Names may be spelt `observation.NAME` or `observation/NAME`
        num_candidates, num_steps  N and M. Exact without a deadline or with on_late="reject"; upper limits with a
                                   deadline and "degrade". Leaving both out takes the policy's default, the best
                                   measured; with a deadline, the best that there is time for
        deadline_ms                time limit from the call to the action, in ms, over all attempts, at most an hour;
                                   after it, and for 0 and less, DeadlineExceeded is raised
        on_late                    if N and M do not fit the deadline: "degrade" computes less, "reject" refuses
        min_quality                with a deadline: the least measured success of an N and M that the server chooses, as
                                   a share, 0 to 1, of the best one's. It refuses where there is no time for such a
                                   one. By default there is no lower limit but (1, 1)
        seed                       uint64, or one per row; by default the server chooses it (with hedges, the
                                   client does) and the reply has it
        temperature                scale of the noise, 0 to 2; None: the policy's
        committed                  of a policy with chunks: the first d actions of the chunk, which the robot executes
                                   before the reply arrives, (d, action_dim), or (B, d, action_dim) for B rows
        coherence                  with them: the share of candidates, 0 to 1, that is left out for lying far from them;
                                   the policy's by default
        model_version              serve only from this version; VersionGone if the server no longer has it
        priority                   0 is served first, 9 last; 5 by default
        return_candidates          also return all N candidates and their values
        request_id                 generated by default; all attempts use the same

        Numbers are Python or NumPy scalars, or 0-d arrays. Whole numbers may be floats, such as 8.0. The observation is
        copied: it may be changed while the call lasts.

        Raises a `SorlError`: RequestRefused or a subclass, DeadlineExceeded, Overloaded, RateLimited, NotReady,
        ServerFailed, ConnectionFailed, CircuitOpen, InvalidReply or StaleReply. Before sending, raises InvalidArgument,
        a RequestRefused, for a number out of range, or an observation that has other than numbers that are finite in
        float32: its text names the part, as `observation['gripper']`. A part that is missing, or that the policy does
        not have, is the server's RequestRefused.
        """
        return self._run(
            self._conversation.act(
                observation,
                num_candidates=num_candidates,
                num_steps=num_steps,
                deadline_ms=deadline_ms,
                on_late=on_late,
                min_quality=min_quality,
                seed=seed,
                temperature=temperature,
                committed=committed,
                coherence=coherence,
                model=model,
                model_version=model_version,
                priority=priority,
                return_candidates=return_candidates,
                request_id=request_id,
            )
        )

    def models(self) -> list[dict[str, Any]]:
        """The served models: name, version, obs_dim, action_dim, control_hz, default_budget, ... of each."""
        return self._run(self._conversation.models())

    def reload(self, name: str) -> dict[str, Any]:
        """Make the server read the file of model `name` again and serve it. `api_key` must be the server's admin key.

        Returns once the new version is warm, which can take seconds (see `timeout_s`). The result has model,
        model_version, previous_version and outcome: "swapped", "restored" or "unchanged". Repeating a call is safe.

        Raises ReloadFailed if the file can't be served, AdminDisabled, or another `SorlError`.
        """
        return self._run(self._conversation.reload(name))

    def ready(self) -> bool:
        """Whether the server is ready to serve. Raises RequestRefused if it refuses the request (4xx)."""
        return self._run(self._conversation.ready())

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Return once the server is ready. Raises NotReady after `timeout` seconds. `ready` asks once.

        Raises InvalidArgument if `timeout` is 0, negative, infinite or no number.
        """
        self._run(self._conversation.wait_until_ready(timeout))

    def close(self) -> None:
        """Close the connections."""
        self._threads.close()
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, exchange: Exchange[T]) -> T:
        """Perform the effects that `exchange` yields; returns its result."""
        arrivals: SimpleQueue[Came] = SimpleQueue()
        arrival: Arrival | None = None
        try:
            while True:
                try:
                    effect = exchange.send(arrival)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
                arrival = self._perform(effect, arrivals)
        finally:
            exchange.close()

    def _perform(self, effect: Effect, arrivals: SimpleQueue[Came]) -> Arrival | None:
        if isinstance(effect, Send):
            request = effect.request
            self._threads.run(lambda: self._outcome(request), lambda outcome: arrivals.put((request, outcome)))
        elif isinstance(effect, Pause):
            self._sleep(effect.seconds)
        else:
            while (left_s := effect.until - self._clock()) > 0.0:
                try:
                    return _arrival(arrivals.get(timeout=left_s))
                except Empty:
                    continue  # by this clock the time may not be up
        return None

    def _outcome(self, request: httpx.Request) -> Outcome | Exception:
        try:
            return self._http.send(request)
        except Exception as error:
            return error


def _arrival(came: Came) -> Arrival:
    """Raises what is no failure of the network."""
    request, outcome = came
    if isinstance(outcome, Exception) and not isinstance(outcome, httpx.RequestError):
        raise outcome
    return Arrival(request, outcome)


class AsyncClient:
    """`Client` for event loops: the same parameters, methods and errors. Its methods are coroutines.

    It runs on asyncio and on trio.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 10.0,
        transit_ms: float = 1.0,
        retry: RetryPolicy | None = None,
        hedge: bool | Hedge = False,
        breaker: CircuitBreaker | None = None,
        media_type: wire.MediaType = wire.MSGPACK,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._conversation = Conversation(
            url,
            api_key=api_key,
            timeout_s=timeout_s,
            transit_ms=transit_ms,
            retry=retry or RetryPolicy(),
            hedge=hedge,
            breaker=breaker,
            media_type=media_type,
            clock=clock,
            random=random,
        )
        self._http = httpx.AsyncClient(transport=transport)
        self._clock = clock
        self._sleep = sleep

    async def act(
        self,
        observation: Observation,
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
        model_version: str | None = None,
        priority: int | None = None,
        return_candidates: bool = False,
        request_id: str | None = None,
    ) -> Action:
        """The best action for `observation`, see `Client.act`."""
        return await self._run(
            self._conversation.act(
                observation,
                num_candidates=num_candidates,
                num_steps=num_steps,
                deadline_ms=deadline_ms,
                on_late=on_late,
                min_quality=min_quality,
                seed=seed,
                temperature=temperature,
                committed=committed,
                coherence=coherence,
                model=model,
                model_version=model_version,
                priority=priority,
                return_candidates=return_candidates,
                request_id=request_id,
            )
        )

    async def models(self) -> list[dict[str, Any]]:
        """The served models, see `Client.models`."""
        return await self._run(self._conversation.models())

    async def reload(self, name: str) -> dict[str, Any]:
        """Reload a model's file, see `Client.reload`."""
        return await self._run(self._conversation.reload(name))

    async def ready(self) -> bool:
        """Whether the server is ready, see `Client.ready`."""
        return await self._run(self._conversation.ready())

    async def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Return when the server is ready, see `Client.wait_until_ready`."""
        await self._run(self._conversation.wait_until_ready(timeout))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _run(self, exchange: Exchange[T]) -> T:
        """Perform the effects that `exchange` yields; returns its result."""
        fault: Exception | None = None
        async with anyio.create_task_group() as tasks:
            arrivals = _Arrivals()
            arrival: Arrival | None = None
            try:
                while True:
                    arrival = await self._perform(exchange.send(arrival), arrivals, tasks)
            except StopIteration as stop:
                result: T = stop.value
            except Exception as error:
                fault = error  # a task group would raise it in an ExceptionGroup
            finally:
                exchange.close()
            tasks.cancel_scope.cancel()
        if fault is not None:
            try:
                raise fault
            finally:
                del fault  # its traceback has this frame
        return result

    async def _perform(self, effect: Effect, arrivals: _Arrivals, tasks: anyio.abc.TaskGroup) -> Arrival | None:
        if isinstance(effect, Send):
            tasks.start_soon(self._send, effect.request, arrivals)
        elif isinstance(effect, Pause):
            await self._sleep(effect.seconds)
        else:
            while (left_s := effect.until - self._clock()) > 0.0:
                with anyio.move_on_after(left_s):
                    return _arrival(await arrivals.get())
        return None

    async def _send(self, request: httpx.Request, arrivals: _Arrivals) -> None:
        outcome: Outcome | Exception
        try:
            outcome = await self._http.send(request)
        except Exception as error:
            outcome = error
        arrivals.put((request, outcome))


class _Arrivals:
    """A queue of what came of a call's requests."""

    def __init__(self) -> None:
        self._came: deque[Came] = deque()
        self._more = anyio.Event()

    def put(self, came: Came) -> None:
        self._came.append(came)
        self._more.set()

    async def get(self) -> Came:
        while not self._came:
            self._more = anyio.Event()
            await self._more.wait()
        return self._came.popleft()
