"""How many replicas: from what every replica says about its own queue and its own compute."""

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
    """Reads one replica's load off its own metrics.

    Args:
        registry: of the application (`Metrics.registry`).
        clock: seconds, monotonic.
    """

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._clock = clock
        self._at, self._computed = clock(), self._sample("sorl_batch_seconds_sum")

    def read(self) -> dict[str, float]:
        """`backlog_seconds`: predicted compute that waits now; `busy`: share of the time since the last call spent
        computing, 0 to 1."""
        now, computed = self._clock(), self._sample("sorl_batch_seconds_sum")
        # Two calls at the same instant have nothing between them.
        busy = (computed - self._computed) / (now - self._at) if now > self._at else 0.0
        self._at, self._computed = now, computed
        return {BACKLOG: self._sample("sorl_queue_backlog_seconds"), BUSY: min(busy, 1.0)}

    def _sample(self, name: str) -> float:
        value = self._registry.get_sample_value(name)
        if value is None:
            raise LookupError(f"the application exports no {name}")
        return value


class LoadPolicy:
    """A Ray Serve autoscaling policy. The larger wish wins: backlog says that replicas are missing, busy how many are
    needed once it is gone. By backlog alone the last of them would go as soon as the queue is empty.

    Args:
        target_backlog_seconds: that may wait at a replica, on average.
        target_busy: share of its time that a replica may compute, on average.
    """

    def __init__(self, target_backlog_seconds: float, target_busy: float) -> None:
        self._targets = {BACKLOG: target_backlog_seconds, BUSY: target_busy}

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """(replicas wanted, state to keep: none). Ray applies bounds and delays, and rounds up."""
        told = context.aggregated_metrics or {}
        if not any(told.get(name) for name in self._targets):
            return context.target_num_replicas, {}
        return max(sum(told.get(name, {}).values()) / target for name, target in self._targets.items()), {}
