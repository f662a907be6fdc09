"""The parts of one server and its life: warming up -> ready, or failed; and at its end, draining."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from kernels.backend import DeviceFailure
from service.budget.admission import TimeLeft
from service.engine import dispatch
from service.engine.device import Device
from service.errors import NotReady
from service.models.catalog import Catalog
from service.models.loading import Loader, MakeBackend
from service.models.model import Model
from service.models.reload import Reloader
from service.observability.metrics import Metrics
from service.observability.observer import Observer
from service.observability.stats import Stats
from service.observability.tracing import otlp_tracer
from service.protocol.schemas import ActRequest
from service.recording.recorder import Recorder
from service.sample import Outcome, Work
from service.scheduling.job import Job
from service.scheduling.loop_lag import LoopLag
from service.scheduling.running_quantile import Reserve
from service.scheduling.scheduler import Scheduler
from service.scheduling.watchdog import Watchdog
from service.settings import Settings

log = logging.getLogger(__name__)


class Service:
    """Everything that routes need, built from settings. Keeps no state between requests.

    Raises:
        CheckpointError: a model's file is missing or damaged.
        CatalogError: two files hold policies of one name, or there is none of the default's.
        BackendUnavailable: the backend or device asked for can't run here.
        DeviceFailure: the device has no room for the policies.
        TracingUnavailable: tracing was asked for without the extra `otel`.
        OSError: the recordings' folder can't be made.
    """

    def __init__(self, settings: Settings, make_backend: MakeBackend | None = None) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.stats = Stats()
        loader = Loader(settings, self.metrics, make_backend, Device(self._device_failed))
        models, paths = loader.load_all()
        self.catalog = Catalog(models, default=settings.default_model, grace=settings.version_grace_seconds)
        self.scheduler: Scheduler[dispatch.Task, Any] = Scheduler(
            dispatch.run,
            partial(dispatch.price, slice_seconds=settings.slice_ms / 1000),
            slice_seconds=settings.slice_ms / 1000,
            max_slice_rows=settings.max_batch_rows,
            max_queue_seconds=settings.max_queue_seconds,
            aging_seconds=settings.aging_seconds,
            on_broken=lambda: self._break("the worker thread died"),
        )
        self.reserve = Reserve(time.monotonic)
        self._lag = LoopLag(time.monotonic)
        self._watchdog = Watchdog(
            lambda: self.scheduler.busy_since,
            settings.stuck_seconds,
            lambda: self._break(f"the engine has not come back for {settings.stuck_seconds:g} s (stuck_seconds)"),
            time.monotonic,
        )
        self.reloader = Reloader(settings.model, paths, self.catalog, loader, self.scheduler, self.metrics)
        self.recorder = self._make_recorder()
        self.state: Literal["warming up", "ready", "failed"] = "warming up"
        self.draining = False
        self.broken: str | None = None  # why only a restart helps
        self.on_broken: Callable[[], None] = lambda: None
        self._why_failed = "warm-up failed"
        self._settled = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        self._export()
        self.observer = Observer(self.metrics.requests, otlp_tracer() if settings.tracing else None)

    @property
    def ready(self) -> bool:
        """Are new clients welcome?"""
        return self.state == "ready" and not self.draining

    def start(self) -> None:
        """Start the worker, which warms up first, and return at once. From the event loop that will serve."""
        self._loop = asyncio.get_running_loop()
        if self.recorder is not None:
            self.recorder.start()
        self.scheduler.start(self._prepare)
        self._watchdog.start()
        self._lag.start()

    def deadline(self, received: float, milliseconds: float | None) -> float | None:
        """When the reply is due, on time.monotonic: as long after receipt, which was before the event loop noticed."""
        return None if milliseconds is None else received - self._lag.seconds + milliseconds / 1000

    def time_left(self, deadline: float | None, priority: int) -> TimeLeft | None:
        """What `deadline`, on time.monotonic, leaves for compute; None without one."""
        if deadline is None:
            return None
        idle = deadline - self.reserve.seconds - time.monotonic()
        return TimeLeft(now=idle - self.scheduler.backlog(priority), idle=idle)

    def submit(self, work: Work, request: ActRequest, model: Model, deadline: float | None) -> Job[Any, Outcome]:
        """Queue `work`, as granted to `request`, as an `Assignment`. Raises as `Scheduler.submit`."""
        due = reduce = None
        if deadline is not None:
            due = deadline - self.reserve.seconds
            if request.on_late == "degrade":
                reduce = partial(dispatch.reduced, model.admission.reduce)
        task = dispatch.Assignment(model.engine, work)
        return self.scheduler.submit(task, request.priority, deadline, due=due, reduce=reduce)

    def check_serving(self) -> None:
        """Raises NotReady unless requests can be computed: also while draining, they can."""
        if self.state != "ready":
            reason = f"{self._why_failed}; the server's log says why" if self.state == "failed" else self.state
            raise NotReady(f"not ready: {reason}", retry_after_ms=1000)

    def check_ready(self) -> None:
        """Raises NotReady unless new clients are welcome."""
        self.check_serving()
        if self.draining:
            raise NotReady("not ready: draining", retry_after_ms=1000)

    async def settled(self) -> None:
        """Wait until warm-up has ended, well or badly."""
        await self._settled.wait()

    async def reload_all(self) -> None:
        """Serve the files as they are now, once warm-up has ended. What comes of it is in the log and the metrics."""
        await self.settled()
        try:
            self.check_serving()
            await self.reloader.reload_all()
        except NotReady as error:
            log.error("nothing was reloaded: %s", error.detail)

    def begin_drain(self) -> None:
        """/readyz turns false, so that load balancers look elsewhere; requests are still served."""
        self.draining = True

    async def stop(self) -> None:
        """Answer what was accepted, then end the threads. May be called again: it waits for the first call's end."""
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop())
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        self.begin_drain()
        if not await self.scheduler.drain(self.settings.drain_seconds):
            log.warning("drain_seconds (%g) passed with requests unanswered", self.settings.drain_seconds)
        self._watchdog.stop()
        self._lag.stop()
        if self.recorder is not None:
            await asyncio.to_thread(self.recorder.close)
        await asyncio.to_thread(self.observer.close)

    def _prepare(self) -> None:
        """In the worker thread, before the first batch."""
        for model in self.catalog:
            try:
                model.engine.warm_up()
            except Exception:
                # Whatever a backend raises here would kill the worker: the server stays up, not ready, and says why.
                log.exception("warm-up failed: %s on %s stays not ready", model.name, model.engine.name)
                self._loop.call_soon_threadsafe(self._settle, "failed")
                return
        self._loop.call_soon_threadsafe(self._settle, "ready")

    def _device_failed(self, error: DeviceFailure) -> None:
        """In the worker thread."""
        log.critical("the device failed: %s", error)
        self._loop.call_soon_threadsafe(self._break, "the device failed")

    def _break(self, why: str) -> None:
        """The engine is lost to this process: answer everyone, and let whoever hosts the app end it."""
        log.critical("%s: failing what is held and queued; this process can't compute any more", why)
        self.broken = self._why_failed = why
        self._settle("failed")
        self.scheduler.abandon("the engine is lost; the server is going down")
        self.on_broken()

    def _settle(self, state: Literal["ready", "failed"]) -> None:
        self.state = "failed" if self.broken is not None else state
        self._settled.set()

    def _export(self) -> None:
        metrics, settings = self.metrics, self.settings
        metrics.queue_requests.set_function(lambda: self.scheduler.queued)
        metrics.queue_backlog.set_function(lambda: self.scheduler.queued_seconds)
        metrics.count_live(
            "batch_retries", "Batches that raised and were run request by request", lambda: self.scheduler.retries
        )
        metrics.count_live(
            "worker_restarts", "Worker threads that died and were replaced", lambda: self.scheduler.restarts
        )
        metrics.reserve.set_function(lambda: self.reserve.seconds)
        metrics.lag.set_function(lambda: self._lag.seconds)
        metrics.slip.set_function(lambda: self.scheduler.slip)
        metrics.ready.set_function(lambda: self.ready)
        for model in self.catalog:
            metrics.show_model(model.name, model.version, model.engine.name)
            metrics.show_engine(model.engine.name, choice=settings.backend, device=settings.device)
            metrics.show_cost(model.name, model.engine.cost)
            metrics.requests.show_budget(model.spec.default_budget)

    def _make_recorder(self) -> Recorder | None:
        if self.settings.record_dir is None:
            return None
        return Recorder(
            self.settings.record_dir,
            {"checkpoint": str(self.settings.model.resolve())},
            max_bytes=self.settings.record_max_bytes,
            max_files=self.settings.record_max_files,
            dropped=self.metrics.recorder_dropped.inc,
        )
