"""Build the dashboard's PromQL. `$instance` is the dashboard variable with the selected instances."""

from __future__ import annotations


def rate(metric: str, by: str = "", window: str = "$__rate_interval", **labels: str) -> str:
    """`sum by (by) (rate(metric[window]))` over the selected instances."""
    matchers = ", ".join(['instance=~"$instance"', *(f'{name}="{value}"' for name, value in labels.items())])
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{matchers}}}[{window}]))"


def now(metric: str) -> str:
    """`metric` of the selected instances."""
    return f'{metric}{{instance=~"$instance"}}'


def mean(metric: str, by: str = "") -> str:
    """The mean of a histogram or summary."""
    return f"{rate(f'{metric}_sum', by)} / {rate(f'{metric}_count', by)}"


def quantile(share: float, metric: str, by: str = "", window: str = "$__rate_interval") -> str:
    """The quantile `share` of a histogram."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', labels, window)})"


def rise(metric: str, by: str = "") -> str:
    """The increase of a counter per interval."""
    return f"sum{f' by ({by})' if by else ''} (increase({now(metric)}[$__rate_interval]))"
