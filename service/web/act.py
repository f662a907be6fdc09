"""POST /act, as an ASGI application: from a request's bytes to the reply's, with nothing computed here."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from pydantic import SecretStr
from starlette.types import Receive, Scope, Send

from service.errors import ClientGone, DeadlineExceeded, ServiceError
from service.lifecycle import Lifecycle
from service.models import Catalog, Model
from service.observability import Observer, RequestTimeline
from service.protocol import act_reply, codec, parse_act, parse_request_id, row_seeds, timing_ms
from service.recording import Record, Recorder
from service.sample import SampleReply, SampleRequest
from service.scheduling import Deadlines, Job, Scheduler
from service.timing import JobTimes
from service.web.auth import check_key
from service.web.exchange import Exchange, Reply, id_header, new_seed
from service.web.problem import fault_reply, problem_reply


class Act:
    """Answers with the best of N candidate actions for an observation, or with a problem.

    Args:
        lifecycle: says whether requests can be computed.
        catalog: the models.
        deadlines: what deadlines leave for compute.
        scheduler: computes.
        observer: hears of every request.
        recorder: keeps answered requests; None: nobody does.
        api_key: that requests must bring; None: they need none.
        max_body_bytes: longest body.
    """

    def __init__(
        self,
        *,
        lifecycle: Lifecycle,
        catalog: Catalog,
        deadlines: Deadlines,
        scheduler: Scheduler,
        observer: Observer,
        recorder: Recorder | None,
        api_key: SecretStr | None,
        max_body_bytes: int,
    ) -> None:
        self._lifecycle = lifecycle
        self._catalog = catalog
        self._deadlines = deadlines
        self._scheduler = scheduler
        self._observer = observer
        self._recorder = recorder
        self._api_key = api_key
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = await self._reply(Exchange(scope, receive))
        await reply.send(send)

    async def _reply(self, exchange: Exchange) -> Reply:
        """The reply; errors are replies too."""
        timeline = self._observer.begin()
        try:
            reply = await self._answer(exchange, timeline)
            timeline.error = None
            return reply
        except ServiceError as error:
            timeline.error = error
            if isinstance(error, DeadlineExceeded) and timeline.request is not None:
                error.name_deadline(timeline.request.deadline_ms)
            return problem_reply(error, exchange.request_id)
        except Exception as error:
            return fault_reply(error, exchange.request_id)
        finally:
            self._observer.end(timeline, exchange.headers, exchange.request_id)

    async def _answer(self, exchange: Exchange, timeline: RequestTimeline) -> Reply:
        check_key(self._api_key, exchange.header(b"authorization"))
        exchange.check_request_id()
        media_type = exchange.media_type()
        self._lifecycle.check_serving()
        fields = codec.decode(await exchange.read_body(self._max_body_bytes), media_type)
        if (given := parse_request_id(fields.get("request_id"))) is not None:
            exchange.request_id = given  # before other fields are checked, so that their errors carry it
        timeline.request = request = parse_act(fields, media_type)

        model = self._catalog.find(request.model, request.model_version)
        timeline.spec = model.spec
        observation = model.rows_of(request.observation)
        timeline.deadline = deadline = self._deadlines.deadline(timeline.received, request.deadline_ms)
        grant = model.admission.grant(
            len(observation),
            request.num_candidates,
            request.num_steps,
            time=self._deadlines.time_left(deadline, request.priority),
            on_late=request.on_late,
            return_candidates=request.return_candidates,
        )
        seed = new_seed() if request.seed is None else request.seed
        timeline.granted = SampleRequest(
            observation,
            grant.num_candidates,
            grant.num_steps,
            row_seeds(seed, len(observation)),
            request.temperature,
            request.return_candidates,
            grant.degraded,
        )
        job = self._scheduler.submit(
            timeline.granted,
            model.engine,
            request.priority,
            deadline,
            reduce_budget=model.admission.reduced if request.on_late == "degrade" else None,
        )
        timeline.times = job.times
        timeline.reply = reply = await self._result(job, exchange)
        timeline.computed = job.request
        timeline.encoding = time.monotonic()

        single = request.observation.ndim == 1
        identity = {"model": model.name, "model_version": model.version, "request_id": exchange.request_id}
        members = act_reply(reply, job.request, single=single, seed=seed, identity=identity)
        reply_type = exchange.reply_type(media_type)
        body = self._encode(members, reply_type, timeline, job.times)
        self._record(model, exchange, job.request, reply)
        return Reply(200, reply_type, body, (id_header(exchange.request_id),))

    async def _result(self, job: Job, exchange: Exchange) -> SampleReply:
        """Wait for the job. Cancel it when the client hangs up, so that nothing is computed for nobody."""

        def hung_up(watcher: asyncio.Task[Any]) -> None:
            if not watcher.cancelled():
                self._scheduler.cancel(job)

        watcher = asyncio.ensure_future(exchange.hung_up())
        watcher.add_done_callback(hung_up)
        try:
            return await job.future
        except asyncio.CancelledError:
            if watcher.done():
                reason = "computing" if job.times.started else "queued"
                raise ClientGone("the client hung up before its answer was there", reason=reason) from None
            self._scheduler.cancel(job)  # the server itself is ending this request's task
            raise
        finally:
            watcher.cancel()

    def _encode(self, members: dict[str, Any], media_type: str, timeline: RequestTimeline, times: JobTimes) -> bytes:
        """The body. Encoding can take long (14 ms for 4096 x 5 candidates in JSON): `total` and deadlines count it."""
        encoded = codec.encode(members, media_type)
        timeline.ended = time.monotonic()
        self._deadlines.observe_reply(timeline.ended - times.finished)
        timing = timing_ms(
            queue=times.started - times.submitted, compute=times.finished - times.started, total=timeline.total_seconds
        )
        return codec.append(encoded, {"timing_ms": timing}, media_type)

    def _record(self, model: Model, exchange: Exchange, request: SampleRequest, reply: SampleReply) -> None:
        if self._recorder is not None:
            self._recorder.offer(
                Record(
                    time.time(),
                    exchange.request_id,
                    model.name,
                    model.version,
                    reply.engine,
                    request,
                    reply.action,
                    reply.q,
                )
            )
