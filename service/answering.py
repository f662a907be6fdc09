"""From a request, in whatever protocol it came, to its reply: the one way that all protocols share.

An adapter presents what came as `protocol.Incoming`. `Answerer` checks the key and its limits, has the request read,
finds the model, has N and M granted, queues it, waits, has the reply encoded, and tells the observer and the recorder.
Errors are replies too.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from functools import partial
from typing import Any, TypeVar

from service.access import Access
from service.errors import ClientGone, DeadlineExceeded, InternalError, ServiceError
from service.lifecycle import Lifecycle
from service.models import Catalog
from service.observability import Observer, RequestTimeline, loggable
from service.protocol import Answer, Incoming, row_seeds, timing_ms
from service.recording import Record, Recorder
from service.sample import SampleReply, SampleRequest
from service.scheduling import Deadlines, Job, Scheduler

log = logging.getLogger(__name__)

# Seeded by the system once: a seed need not be a secret.
_random = random.Random()

ReplyT = TypeVar("ReplyT")


class Answerer:
    """Answers with the best of N candidate actions for an observation, or with an error.

    Args:
        access: who may ask, and how much of it.
        lifecycle: says whether requests can be computed.
        catalog: the models.
        deadlines: what deadlines leave for compute.
        scheduler: computes.
        observer: hears of every request.
        recorder: keeps answered requests; None: nobody does.
    """

    def __init__(
        self,
        *,
        access: Access,
        lifecycle: Lifecycle,
        catalog: Catalog,
        deadlines: Deadlines,
        scheduler: Scheduler,
        observer: Observer,
        recorder: Recorder | None,
    ) -> None:
        self._access = access
        self._lifecycle = lifecycle
        self._catalog = catalog
        self._deadlines = deadlines
        self._scheduler = scheduler
        self._observer = observer
        self._recorder = recorder

    async def reply(self, incoming: Incoming[ReplyT]) -> ReplyT:
        """The reply; errors are replies too. An unforeseen one is logged with its traceback."""
        timeline = self._observer.begin()
        try:
            reply = await self._answer(incoming, timeline)
            timeline.error = None
            return reply
        except ServiceError as error:
            timeline.error = error
            if isinstance(error, DeadlineExceeded) and timeline.request and timeline.request.deadline_ms is not None:
                error.name_deadline("deadline_ms", timeline.request.deadline_ms, "milliseconds")
            return incoming.refused(error)
        except Exception as error:
            request_id = loggable(incoming.request_id)
            log.error("request %s failed", request_id, exc_info=error, extra={"request_id": request_id})
            return incoming.refused(InternalError())
        finally:
            timeline.protocol = incoming.protocol
            self._observer.end(timeline, incoming.headers, incoming.request_id)

    async def _answer(self, incoming: Incoming[ReplyT], timeline: RequestTimeline) -> ReplyT:
        caller = self._access.check("act", incoming.credential)
        timeline.key = caller.name
        self._lifecycle.check_serving()
        caller.spend_request()
        timeline.request = request = await incoming.read()

        model = self._catalog.find(request.model, request.model_version)
        timeline.spec = model.spec
        rows = model.rows_of(request.observation)
        timeline.deadline = deadline = self._deadlines.deadline(timeline.received, request.deadline_ms)
        grant = model.admission.grant(
            len(rows),
            request.num_candidates,
            request.num_steps,
            time=self._deadlines.time_left(deadline, request.priority),
            on_late=request.on_late,
            min_quality=request.min_quality,
            return_candidates=request.return_candidates,
            max_rows=caller.most_rows,
        )
        # Small enough for a JSON number. The system's own generator takes a call of 13 us.
        seed = _random.getrandbits(53) if request.seed is None else request.seed
        timeline.granted = SampleRequest(
            rows,
            grant.num_candidates,
            grant.num_steps,
            row_seeds(seed, len(rows)),
            model.spec.temperature if request.temperature is None else request.temperature,
            request.return_candidates,
            grant.degraded,
            model.commitment_of(request.committed, request.coherence, len(rows)),
        )
        caller.check_rows(timeline.granted.rows)
        job = self._scheduler.submit(
            timeline.granted,
            model.engine,
            request.priority,
            deadline,
            reduce_budget=None
            if request.on_late == "reject"
            else partial(model.admission.reduced, min_quality=request.min_quality),
        )
        caller.spend_rows(timeline.granted.rows)  # what the scheduler refuses is not charged
        timeline.times = job.times
        timeline.reply = reply = await self._result(job, incoming)
        timeline.computed = job.request
        timeline.encoding = time.monotonic()

        answer = Answer(
            reply=reply,
            request=job.request,
            single=request.single,
            seed=seed,
            model=model.name,
            model_version=model.version,
            request_id=incoming.request_id,
            action_horizon=model.spec.action_horizon,
            control_hz=model.spec.control_hz,
        )
        encoded = incoming.answered(answer, lambda: self._end_of_encoding(timeline))
        self._record(answer)
        return encoded

    async def _result(self, job: Job, incoming: Incoming[Any]) -> SampleReply:
        """Wait for the job. Cancel it when the client hangs up, so that nothing is computed for nobody."""

        def hung_up(watcher: asyncio.Task[Any]) -> None:
            if not watcher.cancelled():
                self._scheduler.cancel(job)

        watcher = asyncio.ensure_future(incoming.hung_up())
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

    def _end_of_encoding(self, timeline: RequestTimeline) -> dict[str, float]:
        """Encoding can take long (14 ms for 4096 x 5 candidates in JSON): `total` and deadlines count it."""
        times = timeline.times
        assert times is not None
        timeline.ended = time.monotonic()
        self._deadlines.observe_reply(timeline.ended - times.finished)
        return timing_ms(
            queue=times.started - times.submitted, compute=times.finished - times.started, total=timeline.total_seconds
        )

    def _record(self, answer: Answer) -> None:
        if self._recorder is not None:
            self._recorder.offer(
                Record(
                    time.time(),
                    answer.request_id,
                    answer.model,
                    answer.model_version,
                    answer.reply.engine,
                    answer.request,
                    answer.reply.action,
                    answer.reply.q,
                )
            )
