"""Prometheus metrics of named keys: who asks, and who meets a limit. A name of the keys file is a label's value."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter

from service.errors import RateLimited
from service.observability.timeline import RequestTimeline

OUTCOMES = ("ok", "rate_limited", "error")


class KeySeries(NamedTuple):
    """The series of one key: requests by outcome, refused ones by the limit, and rows."""

    requests: dict[str, Counter]
    limited: dict[str, Counter]
    rows: Counter


class KeyMetrics:
    """Records requests that brought a key into `registry`. Safe from any thread, but for `show`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "sorl_key_requests_total",
            f"Requests for actions by key and outcome: {', '.join(OUTCOMES[:-1])} or {OUTCOMES[-1]}",
            ["key", "outcome"],
            registry=registry,
        )
        self._limited = Counter(
            "sorl_key_limited_total", "Requests refused for a limit of their key", ["key", "limit"], registry=registry
        )
        self._rows = Counter(
            "sorl_key_rows_total",
            "Network rows (observations x candidates) granted and queued, by key",
            ["key"],
            registry=registry,
        )
        self._series: dict[str, KeySeries] = {}

    def show(self, names: Collection[str]) -> None:
        """These are the keys from now on. Their series begin at 0; those of keys that are gone end."""
        for name in self._series.keys() - set(names):
            del self._series[name]
            for outcome in OUTCOMES:
                self._requests.remove(name, outcome)
            for limit in RateLimited.reasons:
                self._limited.remove(name, limit)
            self._rows.remove(name)
        for name in names:
            if name not in self._series:
                self._series[name] = KeySeries(
                    {outcome: self._requests.labels(name, outcome) for outcome in OUTCOMES},
                    {limit: self._limited.labels(name, limit) for limit in RateLimited.reasons},
                    self._rows.labels(name),
                )

    def record(self, timeline: RequestTimeline) -> None:
        """A request has ended, as its timeline says. Nobody's, or that of a key that is gone, is not counted."""
        if timeline.key is None or (series := self._series.get(timeline.key)) is None:
            return
        error = timeline.error
        if isinstance(error, RateLimited):
            assert error.reason is not None
            series.limited[error.reason].inc()
            series.requests["rate_limited"].inc()
        else:
            series.requests["ok" if error is None else "error"].inc()
        if timeline.times is not None and timeline.granted is not None:
            series.rows.inc(timeline.granted.rows)
