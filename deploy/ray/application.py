"""The Ray Serve application, for `serve run deploy.ray.application:build` and `serve deploy serve.yaml`.

Ray starts, monitors and scales replicas, and distributes requests. Each replica is the same application as
`sorl-serve`'s, with its own queue, queue limit and errors.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from ray import serve

from deploy.ray.autoscaling import LoadMeter, LoadPolicy
from deploy.ray.options import Options
from service.app import create_app
from service.runtime import Runtime
from service.settings import Settings

REPLY_SECONDS = 5  # for the last replies, after a replica's queue is drained


class Replica:
    """The methods that Ray calls on a replica, beside HTTP."""

    app: FastAPI  # set by Ray's wrapper

    @property
    def _runtime(self) -> Runtime:
        runtime: Runtime = self.app.state.runtime
        return runtime

    async def check_health(self) -> None:
        """Raise NotReady after a failure that only a restart can repair; Ray then replaces the replica."""
        self._runtime.lifecycle.check_ready()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """The load that `LoadPolicy` decides by."""
        meter: LoadMeter = self.app.state.load
        return meter.read()


def build(arguments: dict[str, Any]) -> serve.Application:
    """Build the application; `arguments` are the fields of `Options`.

    Raises:
        ValueError: an option or a setting is unknown or out of range.
    """
    options = Options.model_validate(arguments)
    settings = options.server_settings()

    def replica_app() -> FastAPI:
        return create_warm_app(settings)

    deployment = serve.deployment(
        name="sorl",
        max_ongoing_requests=options.max_ongoing_requests,
        ray_actor_options={
            "num_cpus": options.num_cpus,
            "num_gpus": options.num_gpus,
            # As `sorl-serve` sets for itself: OpenMP's threads must not spin beside the event loop.
            "runtime_env": {"env_vars": {"OMP_WAIT_POLICY": "passive"}},
        },
        graceful_shutdown_timeout_s=settings.drain_seconds + REPLY_SECONDS,
        health_check_period_s=5,
        logging_config={"enable_access_log": False},
        autoscaling_config={
            "min_replicas": options.min_replicas,
            "max_replicas": options.max_replicas,
            "upscale_delay_s": 10,
            "downscale_delay_s": 300,
            "policy": {
                "policy_function": LoadPolicy,
                "policy_kwargs": options.model_dump(include={"target_backlog_seconds", "target_busy"}),
            },
        },
    )
    return deployment(serve.ingress(replica_app)(Replica)).bind()


def create_warm_app(settings: Settings) -> FastAPI:
    """`create_app`, with a start that lasts until warm-up has ended, because Ray sends requests once it has.

    Raises:
        CheckpointError, BackendUnavailable, OSError: see `Runtime`. NotReady, at the start: warm-up failed.
    """
    app = create_app(settings)
    start = app.router.lifespan_context
    runtime: Runtime = app.state.runtime

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with start(app):
            await runtime.lifecycle.settled()
            runtime.lifecycle.check_ready()
            app.state.load = LoadMeter(runtime.metrics.registry)
            yield

    app.router.lifespan_context = lifespan
    return app
