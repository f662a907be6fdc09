"""Alerts: they fire when they should (cases in `alerts_test.yml`), and each has a section in the runbook."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from service.observability.metrics import Metrics
from tests.deploy.queries import ROOT, alerts

CASES = Path(__file__).parent / "alerts_test.yml"


def promtool(*arguments: str | Path, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    path = f"{os.environ['PATH']}:{ROOT / '.venv' / 'tools' / 'usr' / 'bin'}"
    program = shutil.which("promtool", path=path)
    assert program, "promtool is not there: deploy/tools.sh .venv/tools"
    return subprocess.run([program, *arguments], input=text, capture_output=True, check=False)


@pytest.mark.slow
def test_alerts_fire_when_they_should() -> None:
    done = promtool("test", "rules", CASES)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


@pytest.mark.slow
def test_prometheus_accepts_its_configuration() -> None:
    done = promtool("check", "config", ROOT / "deploy" / "prometheus" / "prometheus.yml")
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    assert f"{len(alerts())} rules found" in done.stdout.decode()


@pytest.mark.slow
def test_metrics_keep_to_prometheus_conventions() -> None:
    done = promtool("check", "metrics", text=Metrics().text())
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_every_alert_is_tested_and_in_the_runbook() -> None:
    tested = {
        case["alertname"] for test in yaml.safe_load(CASES.read_text())["tests"] for case in test["alert_rule_test"]
    }
    assert tested == {rule["alert"] for rule in alerts()}
    for rule in alerts():
        page, anchor = rule["annotations"]["runbook_url"].split("#")
        headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
        assert anchor == rule["alert"].lower()
        assert rule["alert"] in headings
