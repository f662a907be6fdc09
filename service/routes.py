"""The HTTP endpoints. Nothing here computes: `act` awaits the scheduler, so the event loop is always free."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from service import codec
from service.access import check_key
from service.body import media_type_of, read_body, reply_type_of
from service.errors import ClientGone, InternalError, ServiceError
from service.job import Job
from service.journey import Journey
from service.model import Model
from service.problem import REQUEST_ID_HEADER, check_request_id_header, request_id_of
from service.recording import Record
from service.replies import ActReply, act_reply, problem_responses
from service.schemas import ActRequest, parse_act, parse_request_id, row_seeds
from service.state import Service
from service.work import Outcome, Work

router = APIRouter()

_MEANINGS = {
    401: "unauthorized",
    404: "unknown_model",
    409: "version_gone",
    413: "payload_too_large",
    415: "unsupported_media_type",
    422: "invalid_request or budget_too_large",
    500: "engine_failed or nonfinite_output",
    503: "overloaded or not_ready, with Retry-After",
    504: "deadline_exceeded",
}
_ACT_BODY = {"schema": ActRequest.model_json_schema(ref_template="#/components/schemas/{model}")}


@router.post(
    "/act",
    summary="The best of N candidate actions for an observation",
    response_model=None,
    responses={
        200: {"model": ActReply, "description": "The action, what it is worth, and what was spent"},
        **problem_responses(_MEANINGS),
    },
    openapi_extra={"requestBody": {"required": True, "content": {codec.JSON: _ACT_BODY, codec.MSGPACK: _ACT_BODY}}},
)
async def act(request: Request) -> Response:
    """JSON or msgpack (`application/msgpack`), the reply in the request's own format unless Accept says otherwise."""
    service: Service = request.app.state.service
    journey = service.observer.begin()
    try:
        response = await _answer(service, request, journey)
        journey.error = None
        return response
    except ServiceError as error:
        journey.error = error
        raise
    finally:
        service.observer.end(journey, request)
        if journey.error is not None:
            service.stats.failed(journey.error.code)


async def _answer(service: Service, request: Request, journey: Journey) -> Response:
    check_key(service.settings, request)
    check_request_id_header(request)
    media_type = media_type_of(request)
    service.check_serving()
    fields = codec.decode(await read_body(request, service.settings.max_body_bytes), media_type)
    if (given := parse_request_id(fields.get("request_id"))) is not None:
        request.state.request_id = given  # before the rest is looked at, so that errors carry it too
    journey.request = act_request = parse_act(fields, media_type)
    model = service.catalog.find(act_request.model, act_request.model_version)
    journey.spec = model.spec
    observation = model.rows_of(act_request.observation)
    journey.deadline = deadline = service.deadline(journey.received, act_request.deadline_ms)
    journey.grant = grant = model.admission.grant(act_request, service.time_left(deadline, act_request.priority))
    seed = secrets.randbits(53) if act_request.seed is None else act_request.seed
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
    journey.outcome = outcome = await _outcome_of(service, job, request)
    journey.serialising = time.monotonic()
    journey.work = computed = job.work.work

    request_id = request_id_of(request)
    identity = {"model": model.name, "model_version": model.version, "request_id": request_id}
    reply = act_reply(outcome, computed, single=act_request.observation.ndim == 1, seed=seed, identity=identity)
    reply["timing_ms"] = _timing(service, job, journey.received)
    service.stats.answered(model.name, act_request, computed, reply["timing_ms"])
    reply_type = reply_type_of(request, media_type)
    response = Response(codec.encode(reply, reply_type), headers={REQUEST_ID_HEADER: request_id}, media_type=reply_type)
    _record(service, model, request_id, computed, outcome)
    return response


async def _outcome_of(service: Service, job: Job[Any, Outcome], request: Request) -> Outcome:
    """Wait for the job; drop it when the client hangs up, so that the queue holds no abandoned work."""

    def hung_up(watcher: asyncio.Task[Any]) -> None:
        if not watcher.cancelled():
            service.scheduler.cancel(job)

    watcher = asyncio.ensure_future(_disconnected(request))
    watcher.add_done_callback(hung_up)
    try:
        return await job.future
    except asyncio.CancelledError:
        if watcher.done():
            reason = "computing" if job.started else "queued"
            raise ClientGone("the client hung up before its answer was there", reason=reason) from None
        service.scheduler.cancel(job)  # the server itself is ending this request's task
        raise
    finally:
        watcher.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _timing(service: Service, job: Job[Any, Outcome], received: float) -> dict[str, float]:
    now = time.monotonic()
    queue, total = job.started - job.submitted, now - received
    service.reserve.observe(now - job.finished)
    compute = job.finished - job.started
    return {"queue": round(queue * 1e3, 4), "compute": round(compute * 1e3, 4), "total": round(total * 1e3, 4)}


def _record(service: Service, model: Model, request_id: str, work: Work, outcome: Outcome) -> None:
    if service.recorder is not None:
        service.recorder.offer(
            Record(
                time.time(),
                request_id,
                model.name,
                model.version,
                outcome.engine,
                work,
                outcome.action,
                outcome.q,
            )
        )


@router.get("/models", summary="What is served, its dimensions, limits and measured frontier")
async def models(request: Request) -> dict[str, Any]:
    """All models."""
    catalog = request.app.state.service.catalog
    return {"models": [catalog.describe(model.name) for model in catalog]}


@router.get("/models/{name}", summary="One model", responses=problem_responses({404: "unknown_model"}))
async def model(request: Request, name: str) -> dict[str, Any]:
    """One model by its name."""
    description: dict[str, Any] = request.app.state.service.catalog.describe(name)
    return description


@router.get("/healthz", summary="Is the process alive?")
async def healthz(request: Request) -> dict[str, str]:
    """500 once the device has failed, the engine is stuck or its thread gone for good, which only a restart mends."""
    service: Service = request.app.state.service
    if service.broken is not None:
        raise InternalError(service.broken)
    return {"status": "ok"}


@router.get(
    "/readyz",
    summary="May requests be sent here?",
    responses=problem_responses({503: "not_ready: warming up, failed to, or draining"}),
)
async def readyz(request: Request) -> dict[str, str]:
    """200 after warm-up has succeeded and until SIGTERM."""
    service: Service = request.app.state.service
    service.check_ready()
    return {"status": "ready"}


@router.get("/metrics", summary="Prometheus metrics")
async def metrics(request: Request) -> Response:
    """The text exposition format."""
    return Response(request.app.state.service.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})
