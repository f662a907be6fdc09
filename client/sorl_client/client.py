"""`Client` and `AsyncClient`: how a robot asks for its next action."""

from __future__ import annotations

import asyncio
import random as random_module
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, TypeVar

import httpx
import numpy.typing as npt

from sorl_client import wire
from sorl_client.action import Action
from sorl_client.conversation import Conversation, Effect, Exchange, OnLate, Outcome
from sorl_client.retry import RetryPolicy

T = TypeVar("T")


class Client:
    """A connection to a policy server, kept open between calls; safe to share between threads.

    url         where the server is, with or without a path prefix: "http://127.0.0.1:8000"
    api_key     sent as `Authorization: Bearer ...`
    timeout_s   how long a call without a deadline waits for each part of a reply
    transit_ms  what the network takes of a deadline: the server is told that much less, so that an action it sends at
                the last moment still arrives in time
    retry       how often and when to send again after 503 and broken connections
    media_type  "application/msgpack" (small and exact) or "application/json" (readable on the way)
    transport, clock, sleep, random  replace the network, `time.monotonic`, `time.sleep` and `random.random`
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 10.0,
        transit_ms: float = 1.0,
        retry: RetryPolicy | None = None,
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
            media_type=media_type,
            clock=clock,
            random=random,
        )
        self._http = httpx.Client(transport=transport)
        self._sleep = sleep

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
        model_version: str | None = None,
        priority: int | None = None,
        return_candidates: bool = False,
        request_id: str | None = None,
    ) -> Action:
        """The best action for `observation`, (obs_dim,) or (B, obs_dim), within a budget or by a deadline.

        num_candidates, num_steps  N and M; without a deadline exactly these, else ceilings ("degrade") or exact
                                   ("reject"); neither and no deadline: the policy's default budget
        deadline_ms                an action arrives within this time of the call, all attempts together, or
                                   DeadlineExceeded is raised
        seed                       uint64, or one per row; without it the server chooses and the reply tells
        temperature                scale of the noise, 0 to 2
        model_version              this version and no other; VersionGone once the server has let go of it
        priority                   0 is served first, 9 last; 5 if not given
        return_candidates          all N candidates and their values, in `reply`
        request_id                 one is made up if not given; the same for all attempts

        Raises a `SorlError`: RequestRefused or a kind of it, DeadlineExceeded, Overloaded, NotReady, ServerFailed,
        ConnectionFailed, InvalidReply or StaleReply; or, before anything is sent, ValueError or TypeError for an
        observation that is no array of numbers, a deadline that is not finite, or, in JSON, numbers that are not.
        """
        return self._run(
            self._conversation.act(
                observation,
                num_candidates=num_candidates,
                num_steps=num_steps,
                deadline_ms=deadline_ms,
                on_late=on_late,
                seed=seed,
                temperature=temperature,
                model=model,
                model_version=model_version,
                priority=priority,
                return_candidates=return_candidates,
                request_id=request_id,
            )
        )

    def models(self) -> list[dict[str, Any]]:
        """What is served: name, version, obs_dim, action_dim, control_hz, default_budget, ... of each model."""
        return self._run(self._conversation.models())

    def reload(self, name: str) -> dict[str, Any]:
        """Serve the model `name` as its file has it now; for whoever runs the server, with `api_key` its admin key.

        Returns when the new version is warm, which takes seconds for a large one (see `timeout_s`): model,
        model_version, previous_version, and outcome: "swapped", "restored" or "unchanged". May be sent again.

        Raises ReloadFailed with what is wrong with the file, AdminDisabled, or any other `SorlError`.
        """
        return self._run(self._conversation.reload(name))

    def ready(self) -> bool:
        """Whether a warmed-up server answers; raises RequestRefused if one answers but refuses to say."""
        return self._run(self._conversation.ready())

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Return when the server is ready; raises NotReady after `timeout` seconds. 0 asks once."""
        self._run(self._conversation.wait_until_ready(timeout))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, exchange: Exchange[T]) -> T:
        outcome: Outcome = None
        while True:
            try:
                effect = exchange.send(outcome)
            except StopIteration as stop:
                result: T = stop.value
                return result
            outcome = self._perform(effect)

    def _perform(self, effect: Effect) -> Outcome:
        if isinstance(effect, httpx.Request):
            try:
                return self._http.send(effect)
            except httpx.RequestError as error:
                return error
        self._sleep(effect)
        return None


class AsyncClient:
    """`Client` for asyncio: the same parameters, methods and errors; methods are awaited.

    Under another event loop, give its own `sleep`.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 10.0,
        transit_ms: float = 1.0,
        retry: RetryPolicy | None = None,
        media_type: wire.MediaType = wire.MSGPACK,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._conversation = Conversation(
            url,
            api_key=api_key,
            timeout_s=timeout_s,
            transit_ms=transit_ms,
            retry=retry or RetryPolicy(),
            media_type=media_type,
            clock=clock,
            random=random,
        )
        self._http = httpx.AsyncClient(transport=transport)
        self._sleep = sleep

    async def act(
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
                seed=seed,
                temperature=temperature,
                model=model,
                model_version=model_version,
                priority=priority,
                return_candidates=return_candidates,
                request_id=request_id,
            )
        )

    async def models(self) -> list[dict[str, Any]]:
        """What is served, see `Client.models`."""
        return await self._run(self._conversation.models())

    async def reload(self, name: str) -> dict[str, Any]:
        """Serve a model as its file has it now, see `Client.reload`."""
        return await self._run(self._conversation.reload(name))

    async def ready(self) -> bool:
        """Whether a warmed-up server answers, see `Client.ready`."""
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
        outcome: Outcome = None
        while True:
            try:
                effect = exchange.send(outcome)
            except StopIteration as stop:
                result: T = stop.value
                return result
            outcome = await self._perform(effect)

    async def _perform(self, effect: Effect) -> Outcome:
        if isinstance(effect, httpx.Request):
            try:
                return await self._http.send(effect)
            except httpx.RequestError as error:
                return error
        await self._sleep(effect)
        return None
