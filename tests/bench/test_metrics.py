"""`sorl-bench metrics`, with a small number of repeats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench import metrics
from bench.engine import EngineBenchConfig, make_policy
from service.observability.metrics import Metrics


def test_the_report_adds_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.json"
    assert metrics.main(["--repeats", "50", "--rounds", "2", "--json", str(path)]) == 0
    *parts, total = json.loads(path.read_text())["rows"]
    assert [row["recorded"] for row in parts] == ["a request with a deadline", "a batch"]
    assert total["us"] == pytest.approx(sum(row["us"] for row in parts))
    for row in (*parts, total):
        assert row["us"] > 0
        assert row["of a (1, 1) request"] == pytest.approx(row["us"] / 510)
    assert "a batch" in capsys.readouterr().out


def test_the_timed_request_records_all_metrics() -> None:
    """Every series that a real request increases is increased."""
    recorded = Metrics()
    recorded.requests.record(metrics.one_request(make_policy(EngineBenchConfig()).spec))
    families = {family.name: family for family in text_string_to_metric_families(recorded.text().decode())}
    for name in ("request", "queue", "compute", "serialise", "request_by_budget"):
        assert sum(s.value for s in families[f"sorl_{name}_seconds"].samples if s.name.endswith("_count")) == 1
    for name in ("requests", "deadlines"):
        assert sum(s.value for s in families[f"sorl_{name}"].samples) == 1
    for name in ("q", "q_std", "q_gain"):
        assert sum(s.value for s in families[f"sorl_{name}"].samples if s.name.endswith("_count")) == 1
    for name in ("requested_evaluations", "granted_evaluations"):
        assert sum(s.value for s in families[f"sorl_{name}"].samples) == 3
