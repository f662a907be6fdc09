"""The dashboard's file: rendered from its panels, with existing metrics, and provisioned."""

from __future__ import annotations

import re

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from deploy.grafana.panels import PANELS
from policy.spec import Budget
from service.budget.cost_model import CostModel
from service.observability.metrics import Metrics
from tests.deploy.queries import DASHBOARD, ROOT, alerts, dashboard_queries, metric_names


def exported() -> set[str]:
    """The names of all samples that a server with one model exports."""
    metrics = Metrics()
    metrics.show_model("small", "0", "reference")
    metrics.show_cost("small", CostModel())
    metrics.requests.show_budget(Budget(8, 4))
    metrics.keys.show(["robot-7"])
    for name in ("batch_retries", "worker_restarts"):
        metrics.count_live(name, "", lambda: 0)
    return {
        sample.name for family in text_string_to_metric_families(metrics.text().decode()) for sample in family.samples
    }


@pytest.mark.slow
def test_the_file_is_rendered_from_the_panels() -> None:
    """Needs Grafana's SDK, from the extra `deploy`."""
    from deploy.grafana.dashboard import FILE, render

    assert FILE == DASHBOARD
    assert render() == DASHBOARD.read_text(), "python -m deploy.grafana.dashboard"


def test_the_file_has_every_query_of_the_panels() -> None:
    assert dashboard_queries() == [(panel.title, query.expression) for panel in PANELS for query in panel.queries]


def test_queries_and_alerts_read_metrics_that_are_exported() -> None:
    names = exported()
    for expression in [query for _, query in dashboard_queries()] + [rule["expr"] for rule in alerts()]:
        read = metric_names(expression)
        assert read <= names, expression
        assert read or expression.startswith("up{")


def test_every_metric_is_in_the_docs() -> None:
    """By its name; of a histogram or summary without the suffixes of its samples."""
    text = (ROOT / "docs" / "operations.md").read_text()
    documented = metric_names(text)
    for name in exported():
        base = re.sub(r"_(bucket|count|sum)$", "", name)
        assert base in documented or name.startswith(("process_", "python_gc_")), name


def test_grafana_finds_the_file_and_its_data_source() -> None:
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "sorl.yml").read_text())["providers"]
    assert f'"uid": "{source["uid"]}"' in DASHBOARD.read_text()
    mount = "./deploy/grafana/provisioning:/etc/grafana/provisioning:ro"
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert mount in compose["services"]["grafana"]["volumes"]
    assert provider["options"]["path"] == f"/etc/grafana/provisioning/{DASHBOARD.parent.name}"
