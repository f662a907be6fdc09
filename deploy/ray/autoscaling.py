"""Autoscaling: each replica reports its backlog and busy share (`LoadMeter`); `LoadPolicy` sets the replica count."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

BACKLOG = "backlog_seconds"
BUSY = "busy"


class LoadMeter:
    """Reads one replica's load from its metrics.

    Args:
        registry: the application's `Metrics.registry`.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._clock = clock
        self._at, self._computed = clock(), self._sample("sorl_batch_seconds_sum")

    def read(self) -> dict[str, float]:
        """The current load. `backlog_seconds`: predicted compute time in the queue; `busy`: the share of the time since
        the last call spent computing, 0 to 1."""
        now, computed = self._clock(), self._sample("sorl_batch_seconds_sum")
        # 0 if the clock has not advanced since the last call.
        busy = (computed - self._computed) / (now - self._at) if now > self._at else 0.0
        self._at, self._computed = now, computed
        return {BACKLOG: self._sample("sorl_queue_backlog_seconds"), BUSY: min(busy, 1.0)}

    def _sample(self, name: str) -> float:
        value = self._registry.get_sample_value(name)
        if value is None:
            raise LookupError(f"the application exports no {name}")
        return value


class LoadPolicy:
    """A Ray Serve autoscaling policy: as many replicas as backlog or busy share need, whichever is more.

    The backlog shows that replicas are missing; the busy share shows how many are needed once the backlog is gone. By
    backlog alone, replicas would be removed as soon as the queue is empty.

    Args:
        target_backlog_seconds: mean backlog per replica, in seconds of compute.
        target_busy: mean share of its time that a replica computes.
    """

    def __init__(self, target_backlog_seconds: float, target_busy: float) -> None:
        self._targets = {BACKLOG: target_backlog_seconds, BUSY: target_busy}

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """The number of replicas needed, and an empty state. Ray rounds up, and applies limits and delays."""
        reported = context.aggregated_metrics or {}
        if not any(reported.get(name) for name in self._targets):
            return context.target_num_replicas, {}
        return max(sum(reported.get(name, {}).values()) / target for name, target in self._targets.items()), {}
