"""The parts of one server and its life: warming up -> ready -> draining, or failed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

from kernels.backend import Backend, BackendChoice, DeviceFailure, Precision, create_backend
from kernels.gpu.configuration import TritonOptions
from kernels.threads import serving_threads
from policy import Policy, load_policy
from service.admission import Admission, Limits, TimeLeft
from service.catalog import Catalog, Model, Statistics
from service.engine import Engine
from service.errors import NotReady
from service.job import Job
from service.metrics import Metrics
from service.recorder import Recorder
from service.reserve import Reserve
from service.scheduler import Scheduler
from service.schemas import ActRequest
from service.settings import Settings
from service.stats import Stats
from service.watchdog import Watchdog
from service.work import Outcome, Work

log = logging.getLogger(__name__)

MakeBackend = Callable[[Policy, BackendChoice, str, Precision, int], Backend]


class Service:
    """Everything that routes need, built from settings. Keeps no state between requests.

    Raises:
        CheckpointError: the model's file is missing or damaged.
        BackendUnavailable: the backend or device asked for can't run here.
        DeviceFailure: the device has no room for the policy.
        OSError: the recordings' folder can't be made.
    """

    def __init__(self, settings: Settings, make_backend: MakeBackend | None = None) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.stats = Stats()
        policy = load_policy(settings.model)
        triton = TritonOptions(replay=settings.triton_replay, split=settings.triton_split)
        make = make_backend or partial(create_backend, triton=triton)
        self.engine = Engine(
            policy,
            make(policy, settings.backend, settings.device, settings.precision, settings.threads),
            self.metrics,
            threads=settings.threads or serving_threads(),
            max_batch_rows=settings.max_batch_rows,
            on_device_failure=self._device_failed,
        )
        limits = Limits(
            max_candidates=settings.max_candidates,
            max_steps=settings.max_steps,
            max_batch=settings.max_batch,
            max_returned=settings.max_returned_candidates,
            max_seconds=settings.max_queue_seconds,
        )
        admission = Admission(policy.spec, limits, self.engine.cost)
        statistics = Statistics(policy.observation_mean.tolist(), policy.observation_std.tolist())
        model = Model(policy.spec, policy.version, self.engine.name, admission, statistics)
        self.catalog = Catalog([model])
        self.scheduler: Scheduler[Work, Outcome] = Scheduler(
            self.engine.run,
            self.engine.price,
            slice_seconds=settings.slice_ms / 1000,
            max_slice_rows=settings.max_batch_rows,
            max_queue_seconds=settings.max_queue_seconds,
            aging_seconds=settings.aging_seconds,
            on_broken=lambda: self._break("the worker thread died"),
        )
        self.reserve = Reserve()
        self._watchdog = Watchdog(
            lambda: self.scheduler.busy_since,
            settings.stuck_seconds,
            lambda: self._break(f"the engine has not come back for {settings.stuck_seconds:g} s (stuck_seconds)"),
            time.monotonic,
        )
        self.broken: str | None = None
        self.on_broken: Callable[[], None] = lambda: None
        self.recorder = self._make_recorder(model)
        self.state: Literal["warming up", "ready", "draining", "failed"] = "warming up"
        self._why_failed = "warm-up failed"
        self._settled = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        self.metrics.queue_requests.set_function(lambda: self.scheduler.queued)
        self.metrics.queue_predicted.set_function(lambda: self.scheduler.queued_seconds)
        self.metrics.retries.set_function(lambda: self.scheduler.retries)
        self.metrics.restarts.set_function(lambda: self.scheduler.restarts)
        self.metrics.reserve.set_function(lambda: self.reserve.seconds)
        self.metrics.show_cost(policy.spec.name, self.engine.cost)
        self.metrics.ready.set_function(lambda: self.state == "ready")
        self.metrics.model.info({"name": policy.spec.name, "version": policy.version})
        self.metrics.engine.info({"engine": self.engine.name, "choice": settings.backend, "device": settings.device})

    def start(self) -> None:
        """Start the worker, which warms up first, and return at once. From the event loop that will serve."""
        self._loop = asyncio.get_running_loop()
        if self.recorder is not None:
            self.recorder.start()
        self.scheduler.start(self._prepare)
        self._watchdog.start()

    def time_left(self, deadline: float | None, priority: int) -> TimeLeft | None:
        """What `deadline`, on time.monotonic, leaves for compute; None without one."""
        if deadline is None:
            return None
        idle = deadline - self.reserve.seconds - time.monotonic()
        return TimeLeft(now=idle - self.scheduler.backlog(priority), idle=idle)

    def submit(self, work: Work, request: ActRequest, model: Model, deadline: float | None) -> Job[Work, Outcome]:
        """Queue `work`, as granted to `request`. Raises as `Scheduler.submit`."""
        if deadline is None:
            return self.scheduler.submit(work, request.priority)
        reduce = model.admission.reduce if request.on_late == "degrade" else None
        due = deadline - self.reserve.seconds
        return self.scheduler.submit(work, request.priority, deadline, due=due, reduce=reduce)

    def check_serving(self) -> None:
        """Raises NotReady unless requests can be computed: also while draining, they can."""
        if self.state in ("warming up", "failed"):
            self.check_ready()

    def check_ready(self) -> None:
        """Raises NotReady unless new clients are welcome."""
        if self.state == "ready":
            return
        reason = f"{self._why_failed}; the server's log says why" if self.state == "failed" else self.state
        raise NotReady(f"not ready: {reason}", retry_after_ms=1000)

    async def settled(self) -> None:
        """Wait until warm-up has ended, well or badly."""
        await self._settled.wait()

    def begin_drain(self) -> None:
        """/readyz turns false, so that load balancers look elsewhere; requests are still served."""
        self.state = "draining"

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
        if self.recorder is not None:
            await asyncio.to_thread(self.recorder.close)

    def _prepare(self) -> None:
        """In the worker thread, before the first batch."""
        try:
            self.engine.warm_up()
        except Exception:
            # Whatever a backend raises here would kill the worker: the server stays up, not ready, and says why.
            log.exception("warm-up failed: %s stays not ready", self.engine.name)
            self._loop.call_soon_threadsafe(self._settle, "failed")
        else:
            self._loop.call_soon_threadsafe(self._settle, "ready")

    def _device_failed(self, error: DeviceFailure) -> None:
        """In the worker thread. Nothing that the device says from here on can be relied on: clients go elsewhere."""
        log.critical("%s failed, not ready from here on: %s", self.engine.name, error)
        self._loop.call_soon_threadsafe(self._fail, "the device failed")

    def _break(self, why: str) -> None:
        """The engine is lost to this process: answer everyone, and let whoever hosts the app end it."""
        log.critical("%s: failing what is held and queued; this process can't compute any more", why)
        self.broken = why
        self._fail(why)
        self._settled.set()
        self.scheduler.abandon("the engine is lost; the server is going down")
        self.on_broken()

    def _fail(self, why: str) -> None:
        self._why_failed = why
        self.state = "failed"

    def _settle(self, state: Literal["ready", "failed"]) -> None:
        if self.state == "warming up":  # else a drain has overtaken it
            self.state = state
        self._settled.set()

    def _make_recorder(self, model: Model) -> Recorder | None:
        if self.settings.record_dir is None:
            return None
        header = {
            "checkpoint": str(self.settings.model.resolve()),
            "model": model.spec.name,
            "model_version": model.version,
            "engine": model.engine,
        }
        return Recorder(
            self.settings.record_dir,
            header,
            max_bytes=self.settings.record_max_bytes,
            max_files=self.settings.record_max_files,
            dropped=self.metrics.recorder_dropped.inc,
        )
