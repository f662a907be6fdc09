"""Render `panels` as Grafana's JSON. `python -m deploy.grafana.dashboard` writes the provisioned file."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, timeseries, trend
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import StackingMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    VariableOption,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.grafana.panels import PANELS, Panel

FILE = Path(__file__).parent / "provisioning" / "dashboards" / "sorl.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
PEAK = "425.6e9"
"""Default peak, in FLOP/s: bf16 products on two cores of the machine in docs/results/bench/engine-cube-single.json."""

HEIGHT = 8


def render() -> str:
    """The dashboard's JSON."""
    board = (
        dashboard.Dashboard("SORL Serve")
        .uid("sorl-serve")
        .description("Made by `python -m deploy.grafana.dashboard`: edit deploy/grafana/panels.py instead.")
        .tags(["sorl"])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .refresh("10s")
        .time("now-15m", "now")
        .timezone("browser")
        .with_variable(
            dashboard.QueryVariable("instance")
            .label("Instance")
            .query("label_values(sorl_ready, instance)")
            .datasource(SOURCE)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(VariableOption(text="All", value="$__all"))
        )
        .with_variable(dashboard.TextBoxVariable("peak").label("Peak FLOP/s").default_value(PEAK))
    )
    for panel in PANELS:
        board.with_panel(_panel(panel))
    text: str = JSONEncoder(sort_keys=True, indent=2).encode(board.build())
    return text + "\n"


def _panel(panel: Panel) -> Any:
    builder = _KINDS[panel.kind]()
    builder.title(panel.title).description(panel.text).unit(panel.unit).datasource(SOURCE).span(panel.width)
    builder.height(HEIGHT)
    tabular = panel.kind in ("trend", "table")
    for reference, query in zip(string.ascii_uppercase, panel.queries, strict=False):
        target = prometheus.Dataquery().expr(query.expression).legend_format(query.legend).ref_id(reference)
        if tabular:
            target.instant().format(PromQueryFormat.TABLE)
        elif panel.kind == "heatmap":
            target.format(PromQueryFormat.HEATMAP)
        builder.with_target(target)
    if tabular:
        _join(builder, panel)
    return builder


def _join(builder: Any, panel: Panel) -> None:
    """Join the queries into a table: a row per (N, M), sorted by the first query's value, and a column per query."""
    legends = [query.legend for query in panel.queries]
    columns = {
        f"Value #{reference}": legend for reference, legend in zip(string.ascii_uppercase, legends, strict=False)
    }
    columns |= {"candidates": "N", "steps": "M"}
    for name, options in {
        "merge": {},
        "organize": {"excludeByName": {"Time": True}, "renameByName": columns},
        "sortBy": {"sort": [{"field": legends[0]}]},
    }.items():
        builder.with_transformation(DataTransformerConfig(name, options=options))
    builder.override_by_name(legends[0], [DynamicConfigValue("unit", "short")])
    if panel.kind == "trend":
        builder.x_field(legends[0]).legend(_legend())


def _legend() -> common.VizLegendOptions:
    return common.VizLegendOptions().show_legend(True)


def _lines() -> timeseries.Panel:
    return timeseries.Panel().legend(_legend())


def _stacked() -> timeseries.Panel:
    return _lines().stacking(common.StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(40)


def _heatmap() -> heatmap.Panel:
    return heatmap.Panel().y_axis(heatmap.YAxisConfig().unit("s"))


_KINDS: dict[str, Callable[[], Any]] = {
    "lines": _lines,
    "stacked": _stacked,
    "heatmap": _heatmap,
    "trend": trend.Panel,
    "table": table.Panel,
    "stat": stat.Panel,
}


if __name__ == "__main__":
    FILE.write_text(render())
