"""The PromQL expressions of the dashboard and of the alerts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
DASHBOARD = ROOT / "deploy" / "grafana" / "provisioning" / "dashboards" / "sorl.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"


def dashboard_queries() -> list[tuple[str, str]]:
    """(panel's title, expression) of every query, with its `$` variables."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]


def alerts() -> list[dict[str, Any]]:
    """The alerting rules in the file."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def always_answering(expression: str) -> str:
    """An alert's condition with the value 0 or 1. A plain comparison has no result where it is false."""
    condition, comparisons = re.subn(r" (==|!=|<=?|>=?) ", r" \1 bool ", expression)
    assert comparisons == 1
    return condition


def metric_names(expression: str) -> set[str]:
    """The metrics in a query."""
    return set(re.findall(r"\b(?:sorl|process)_[a-z_]+", expression))
