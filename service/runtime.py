"""The parts of one server, built from settings and handed to each other, and their start and end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

from kernels.backend import DeviceFailure
from kernels.threads import at_most_cores, limit_torch_threads, serving_threads
from policy import PolicySpec
from policy.flops import flops_of
from service.access import Access, KeySource
from service.engine import BatchReport, Device
from service.errors import NotReady
from service.lifecycle import Lifecycle
from service.models import Catalog, Loader, MakeBackend, Model, Reloader
from service.observability import Metrics, Observer, Stats, otlp_tracer
from service.recording import Recorder
from service.scheduling import Deadlines, Scheduler, Watchdog
from service.settings import Settings

log = logging.getLogger(__name__)


class Runtime:
    """Everything of a server but HTTP. It keeps no state between requests.

    Attributes:
        access, lifecycle, catalog, scheduler, deadlines, reloader, recorder, observer, metrics, stats: its parts.
        on_broken: called on the event loop when the engine is lost, for whoever hosts the server to end the process.

    Raises:
        KeysError: the keys file can't be used.
        CheckpointError: a model's file is missing or damaged, or two files hold policies of one name.
        CatalogError: there is no policy of the default's name.
        BackendUnavailable: the backend or device asked for can't run here.
        DeviceFailure: the device has no room for the policies.
        TracingUnavailable: tracing was asked for without the extra `otel`.
        OSError: the recordings' folder can't be made.
    """

    def __init__(self, settings: Settings, make_backend: MakeBackend | None = None) -> None:
        self.settings = settings
        self.access = self._make_access()
        self.lifecycle = Lifecycle()
        self.metrics = Metrics()
        self.stats = Stats()
        loader = Loader(settings, make_backend, Device(self._device_failed), self._batch_counter)
        models, paths = loader.load_all()
        self.catalog = Catalog(models, default=settings.default_model, grace=settings.version_grace_seconds)
        self.scheduler = Scheduler(
            slice_seconds=settings.slice_ms / 1000,
            max_batch_rows=settings.max_batch_rows,
            max_queue_seconds=settings.max_queue_seconds,
            aging_seconds=settings.aging_seconds,
            on_thread_start=partial(limit_torch_threads, at_most_cores(settings.threads) or serving_threads()),
            on_broken=lambda: self._lose_engine("the worker thread died"),
        )
        self.deadlines = Deadlines(self.scheduler.backlog)
        self._watchdog = Watchdog(
            lambda: self.scheduler.busy_since,
            settings.stuck_seconds,
            lambda: self._lose_engine(f"the engine has not come back for {settings.stuck_seconds:g} s (stuck_seconds)"),
            time.monotonic,
        )
        self.reloader = Reloader(
            settings.model,
            paths,
            self.catalog,
            loader,
            self.scheduler.call,
            self._show_model,
            lambda name, outcome: self.metrics.reloads.labels(name, outcome).inc(),
        )
        self.recorder = self._make_recorder()
        self.observer = Observer(
            self.metrics.requests, self.metrics.keys, self.stats, otlp_tracer() if settings.tracing else None
        )
        self.on_broken: Callable[[], None] = lambda: None
        self._warming_up: asyncio.Task[None] | None = None
        self._following_keys: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._export()

    def start(self) -> None:
        """Start the threads and the warm-up, and return at once. From the event loop that will serve."""
        self._loop = asyncio.get_running_loop()
        if self.recorder is not None:
            self.recorder.start()
        self.scheduler.start()
        self._watchdog.start()
        self.deadlines.start()
        self._warming_up = self._loop.create_task(self._warm_up())
        if self.access.follows_file:
            self._following_keys = self._loop.create_task(self.access.follow())

    async def reload_all(self) -> None:
        """Know the keys as they are now, and serve the files as they are once warm-up has ended. The log and the
        metrics have the results.
        """
        await self.access.reload()
        await self.lifecycle.settled()
        try:
            self.lifecycle.check_serving()
            await self.reloader.reload_all()
        except NotReady as error:
            log.error("the reload ended early: %s", error.detail)

    async def stop(self) -> None:
        """Answer what was accepted, then end the threads. Further calls wait for the end of the first."""
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop())
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        self.lifecycle.draining = True
        if not await self.scheduler.drain(self.settings.drain_seconds):
            log.warning("drain_seconds (%g) passed with requests unanswered", self.settings.drain_seconds)
        if self._warming_up is not None:
            await self._warming_up
        if self._following_keys is not None:
            self._following_keys.cancel()
        self._watchdog.stop()
        self.deadlines.stop()
        if self.recorder is not None:
            await asyncio.to_thread(self.recorder.close)
        await asyncio.to_thread(self.observer.close)

    async def _warm_up(self) -> None:
        """Warm up every model, by calls in the worker thread, where the watchdog sees one that hangs."""
        for model in self.catalog:
            started = time.perf_counter()
            try:
                for step in model.engine.warm_up_steps():
                    await self.scheduler.call(step)
            except NotReady:
                log.warning("the server stopped before %s was warm", model.name)
                break
            except Exception:
                # Whatever a backend raises: the server stays up, not ready, and says why.
                log.exception("warm-up failed: %s on %s stays not ready", model.name, model.engine.name)
                break
            log.info("%s warmed up in %.2f s", model.engine.name, time.perf_counter() - started)
        else:
            self.lifecycle.warmed_up(ok=True)
            return
        self.lifecycle.warmed_up(ok=False)

    def _device_failed(self, error: DeviceFailure) -> None:
        """In the worker thread."""
        log.critical("the device failed: %s", error)
        self._loop.call_soon_threadsafe(self._lose_engine, "the device failed")

    def _lose_engine(self, why: str) -> None:
        """The engine is lost to this process: answer everyone, and let whoever hosts the server end the process."""
        log.critical("%s: failing what is held and queued; this process can't compute any more", why)
        self.lifecycle.lose_engine(why)
        self.scheduler.abandon("the engine is lost; the server is going down")
        self.on_broken()

    def _batch_counter(self, spec: PolicySpec) -> Callable[[BatchReport], None]:
        """What counts the batches of a policy; it is called in the worker thread."""
        flops = flops_of(spec)

        def count(report: BatchReport) -> None:
            self.metrics.count_batch(
                report.size,
                requests=report.requests,
                nonfinite=report.nonfinite,
                members=spec.ensemble_size,
                flops=flops,
                seconds=report.seconds,
            )

        return count

    def _show_model(self, model: Model) -> None:
        self.metrics.show_model(model.name, model.version, model.engine.name)
        self.metrics.show_cost(model.name, model.engine.cost)
        self.metrics.requests.show_budget(model.spec.default_budget)

    def _export(self) -> None:
        metrics, scheduler, deadlines = self.metrics, self.scheduler, self.deadlines
        metrics.queue_requests.set_function(lambda: scheduler.queued)
        metrics.queue_backlog.set_function(lambda: scheduler.queued_seconds)
        metrics.count_live(
            "batch_retries", "Batches that raised and were run request by request", lambda: scheduler.retries
        )
        metrics.count_live("worker_restarts", "Worker threads that died and were replaced", lambda: scheduler.restarts)
        metrics.reply_time.set_function(lambda: deadlines.reply_seconds)
        metrics.lag.set_function(lambda: deadlines.lag_seconds)
        metrics.schedule_delay.set_function(lambda: scheduler.delay_seconds)
        metrics.ready.set_function(lambda: self.lifecycle.ready)
        metrics.keys.show(self.access.names)
        self.access.on_keys = metrics.keys.show
        metrics.keys_stale.set_function(lambda: self.access.stale)
        for model in self.catalog:
            self._show_model(model)
            metrics.show_engine(model.engine.name, choice=self.settings.backend, device=self.settings.device)

    def _make_access(self) -> Access:
        settings = self.settings
        api_key, admin_key, text = (
            None if key is None else key.get_secret_value()
            for key in (settings.api_key, settings.admin_key, settings.keys)
        )
        return Access(KeySource(api_key, admin_key, text, settings.keys_file))

    def _make_recorder(self) -> Recorder | None:
        settings = self.settings
        if settings.record_dir is None:
            return None
        try:
            return Recorder(
                settings.record_dir,
                {"checkpoint": str(settings.model.resolve())},
                max_bytes=settings.record_max_bytes,
                max_files=settings.record_max_files,
                dropped=self.metrics.recorder_dropped.inc,
            )
        except OSError as error:
            reason = error.strerror or error
            raise OSError(f"record_dir: {settings.record_dir} can't be made or written to: {reason}") from None
