"""Prometheus metrics of named keys: who asks, and who meets a limit. A name of the keys file is a label's value.

Numbers are counted here and made into series whenever metrics are read: 0.8 us a request, where prometheus_client's own
counters take 3.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from service.errors import RateLimited
from service.observability.timeline import RequestTimeline


class KeyCounts:
    """The counts of one key: requests by outcome, and network rows."""

    __slots__ = ("error", "limited", "ok", "rows")

    def __init__(self) -> None:
        self.ok = self.error = self.rows = 0
        self.limited = dict.fromkeys(RateLimited.reasons, 0)


class KeyMetrics(Collector):
    """Counts requests that brought a key. Belongs to the event loop; metrics are read from any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counts: dict[str, KeyCounts] = {}
        registry.register(self)

    def show(self, names: Collection[str]) -> None:
        """These are the keys from now on. Their series begin at 0; those of keys that are gone end."""
        self._counts = {name: self._counts.get(name) or KeyCounts() for name in names}

    def record(self, timeline: RequestTimeline) -> None:
        """A request has ended, as its timeline says. Nobody's, or that of a key that is gone, is not counted."""
        if timeline.key is None or (counts := self._counts.get(timeline.key)) is None:
            return
        if timeline.error is None:
            counts.ok += 1
        elif isinstance(timeline.error, RateLimited):
            assert timeline.error.reason is not None
            counts.limited[timeline.error.reason] += 1
        else:
            counts.error += 1
        if timeline.times is not None and timeline.granted is not None:
            counts.rows += timeline.granted.rows

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The series."""
        requests = CounterMetricFamily(
            "sorl_key_requests",
            "Requests for actions by key and outcome: ok, rate_limited or error",
            labels=["key", "outcome"],
        )
        limited = CounterMetricFamily(
            "sorl_key_limited", "Requests refused for a limit of their key", labels=["key", "limit"]
        )
        rows = CounterMetricFamily(
            "sorl_key_rows", "Network rows (observations x candidates) granted and queued, by key", labels=["key"]
        )
        for name, counts in self._counts.items():
            requests.add_metric([name, "ok"], counts.ok)
            requests.add_metric([name, "rate_limited"], sum(counts.limited.values()))
            requests.add_metric([name, "error"], counts.error)
            for limit, count in counts.limited.items():
                limited.add_metric([name, limit], count)
            rows.add_metric([name], counts.rows)
        yield from (requests, limited, rows)
