"""POST /act, as an ASGI application. It computes nothing: the scheduler does, so that the event loop is always free."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.types import Receive, Scope, Send

from service.errors import ClientGone, ServiceError
from service.models.model import Model
from service.observability.timeline import Journey
from service.protocol import codec
from service.protocol.replies import act_reply
from service.protocol.schemas import parse_act, parse_request_id, row_seeds
from service.recording.format import Record
from service.runtime import Service
from service.sample import Outcome, Work
from service.scheduling.job import Job
from service.web.auth import check_key
from service.web.exchange import Exchange, Reply, id_header, new_seed
from service.web.problem import fault_reply, problem_reply


class Act:
    """Answers with the best of N candidate actions for an observation, or with a problem."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = await self.reply(scope, receive)
        await reply.send(send)

    async def reply(self, scope: Scope, receive: Receive) -> Reply:
        """The reply, errors among them."""
        service = self._service
        exchange = Exchange(scope, receive)
        journey = service.observer.begin()
        try:
            reply = await self._answer(exchange, journey)
            journey.error = None
            return reply
        except ServiceError as error:
            journey.error = error
            return problem_reply(error, exchange.request_id)
        except Exception as error:
            return fault_reply(error, exchange.request_id)
        finally:
            service.observer.end(journey, exchange)
            if journey.error is not None:
                service.stats.failed(journey.error.code)

    async def _answer(self, exchange: Exchange, journey: Journey) -> Reply:
        service = self._service
        check_key(service.settings, exchange.header(b"authorization"))
        exchange.check_request_id()
        media_type = exchange.media_type()
        service.check_serving()
        fields = codec.decode(await exchange.read_body(service.settings.max_body_bytes), media_type)
        if (given := parse_request_id(fields.get("request_id"))) is not None:
            exchange.request_id = given  # before the rest is looked at, so that errors carry it too
        journey.request = act_request = parse_act(fields, media_type)
        model = service.catalog.find(act_request.model, act_request.model_version)
        journey.spec = model.spec
        observation = model.rows_of(act_request.observation)
        journey.deadline = deadline = service.deadline(journey.received, act_request.deadline_ms)
        journey.grant = grant = model.admission.grant(act_request, service.time_left(deadline, act_request.priority))
        seed = new_seed() if act_request.seed is None else act_request.seed
        work = Work(
            observation,
            grant.num_candidates,
            grant.num_steps,
            row_seeds(seed, len(observation)),
            act_request.temperature,
            act_request.return_candidates,
            grant.degraded,
        )
        journey.job = job = service.submit(work, act_request, model, deadline)
        journey.outcome = outcome = await self._outcome_of(job, exchange)
        journey.serialising = time.monotonic()
        journey.work = computed = job.work.work

        identity = {"model": model.name, "model_version": model.version, "request_id": exchange.request_id}
        reply = act_reply(outcome, computed, single=act_request.observation.ndim == 1, seed=seed, identity=identity)
        reply["timing_ms"] = self._timing(job, journey.received)
        service.stats.answered(model.name, act_request, computed, reply["timing_ms"])
        reply_type = exchange.reply_type(media_type)
        encoded = codec.encode(reply, reply_type)
        self._record(model, exchange, computed, outcome)
        return Reply(200, reply_type, encoded, (id_header(exchange.request_id),))

    async def _outcome_of(self, job: Job[Any, Outcome], exchange: Exchange) -> Outcome:
        """Wait for the job; drop it when the client hangs up, so that the queue holds no abandoned work."""
        scheduler = self._service.scheduler

        def hung_up(watcher: asyncio.Task[Any]) -> None:
            if not watcher.cancelled():
                scheduler.cancel(job)

        watcher = asyncio.ensure_future(exchange.hung_up())
        watcher.add_done_callback(hung_up)
        try:
            return await job.future
        except asyncio.CancelledError:
            if watcher.done():
                reason = "computing" if job.started else "queued"
                raise ClientGone("the client hung up before its answer was there", reason=reason) from None
            scheduler.cancel(job)  # the server itself is ending this request's task
            raise
        finally:
            watcher.cancel()

    def _timing(self, job: Job[Any, Outcome], received: float) -> dict[str, float]:
        now = time.monotonic()
        queue, total = job.started - job.submitted, now - received
        self._service.reserve.observe(now - job.finished)
        compute = job.finished - job.started
        return {"queue": round(queue * 1e3, 4), "compute": round(compute * 1e3, 4), "total": round(total * 1e3, 4)}

    def _record(self, model: Model, exchange: Exchange, work: Work, outcome: Outcome) -> None:
        if (recorder := self._service.recorder) is not None:
            recorder.offer(
                Record(
                    time.time(),
                    exchange.request_id,
                    model.name,
                    model.version,
                    outcome.engine,
                    work,
                    outcome.action,
                    outcome.q,
                )
            )
