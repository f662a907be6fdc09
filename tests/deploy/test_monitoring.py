"""A real Prometheus scrapes a real server under load: every query of the dashboard and the alerts has a result."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from policy import load_policy
from tests.deploy.queries import DASHBOARD, ROOT, alerts, always_answering, dashboard_queries

pytestmark = pytest.mark.slow
POLICY = ROOT / "deploy" / "policies" / "pointmaze-medium.safetensors"
ROUNDS = 1000  # rounds of load, each some tenths of a second: more than enough for the scrapes
SCRAPES = 6
BUDGETS = [(1, 1), (2, 1), (8, 4), (32, 4), (128, 8)]


@contextmanager
def running(command: list[str], address: str, ready: str) -> Iterator[str]:
    """HOST:PORT, the first match of `address` in what the command logs on stderr, once it has logged `ready`. SIGTERM
    must end it with 0."""
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        reader = threading.Thread(target=process.stderr.read)
        try:
            for line in process.stderr:
                said += line
                if ready in line:
                    break
            found = re.search(address, said)
            assert found, f"{command[0]} ended:\n{said}"
            reader.start()  # a full pipe would stop it
            yield found[1]
        finally:
            process.terminate()
            if reader.ident is not None:
                reader.join()
    assert process.returncode == 0


def requests(obs_dim: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """A round of load: (expected status, body)."""
    row = [0.1] * obs_dim
    for n, m in BUDGETS:
        yield 200, {"observation": row, "num_candidates": n, "num_steps": m}
    for deadline in (5, 20, 30, 50, 100, 1000):
        yield 200, {"observation": row, "deadline_ms": 1000 + deadline}
        yield 0, {"observation": row, "deadline_ms": deadline, "num_candidates": 512, "num_steps": 8}
    yield 200, {"observation": [row] * 16, "num_candidates": 4, "num_steps": 2}
    reject = {"deadline_ms": 0.01, "num_candidates": 4096, "num_steps": 8, "on_late": "reject"}
    yield 504, {"observation": row, **reject}
    yield 422, {"observation": row[1:]}
    yield 404, {"observation": row, "model": "another"}


def load(client: httpx.Client, pool: ThreadPoolExecutor, bodies: list[tuple[int, dict[str, Any]]]) -> None:
    """Send one round. A status of 0 allows any: whether a deadline is met depends on the machine."""

    def ask(body: dict[str, Any]) -> int:
        return client.post("/act", json=body).status_code

    statuses = list(pool.map(ask, [body for _, body in bodies]))
    for (expected, body), status in zip(bodies, statuses, strict=True):
        assert status == expected or (expected == 0 and status in (200, 504)), (status, body)


def answer(prometheus: httpx.Client, query: str) -> list[dict[str, Any]]:
    """An instant query's vector. Fails on an error, a warning or a hint of Prometheus."""
    reply = prometheus.get("/api/v1/query", params={"query": query}).json()
    assert reply["status"] == "success", (query, reply)
    assert not reply.get("warnings"), (query, reply)
    vector: list[dict[str, Any]] = reply["data"]["result"]
    return vector


def settled(prometheus: httpx.Client) -> bool:
    """Whether Prometheus has enough scrapes for rates, and has evaluated every rule without an error."""
    scrapes = answer(prometheus, 'count_over_time(up{job="sorl"}[5m])')
    groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    health = [rule["health"] for group in groups for rule in group["rules"]]
    assert "err" not in health, groups
    return bool(scrapes) and float(scrapes[0]["value"][1]) >= SCRAPES and set(health) == {"ok"}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The API of a Prometheus that has scraped a server under load, with the shipped configuration except for host
    names and intervals."""
    folder = tmp_path_factory.mktemp("prometheus")
    path = f"{os.environ['PATH']}:{ROOT / '.venv' / 'tools' / 'usr' / 'bin'}"
    program = shutil.which("prometheus", path=path)
    assert program, "prometheus is not there: deploy/tools.sh .venv/tools"
    serve = [sys.executable, "-m", "service.cli", "--model", str(POLICY), "--port", "0", "--threads", "1"]
    bodies = list(requests(load_policy(POLICY).spec.obs_dim))
    with running(serve, r"listening on http://(\S+)", " ready: ") as address:
        for file in ("prometheus.yml", "alerts.yml"):
            text = (ROOT / "deploy" / "prometheus" / file).read_text().replace("sorl:8000", address)
            faster = text.replace("scrape_interval: 5s", "scrape_interval: 1s\n  evaluation_interval: 1s")
            (folder / file).write_text(faster)
        command = [program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
        command.append("--web.listen-address=127.0.0.1:0")
        with (
            running(
                command, r'msg="Listening on" address=(\S+)', "Server is ready to receive web requests"
            ) as listening,
            httpx.Client(base_url=f"http://{listening}", timeout=30) as api,
            httpx.Client(base_url=f"http://{address}", timeout=30) as client,
            ThreadPoolExecutor(8) as pool,
        ):
            for _ in range(ROUNDS):
                load(client, pool, bodies)
                if settled(api):
                    break
            else:
                pytest.fail(f"Prometheus did not read the server {SCRAPES} times in {ROUNDS} rounds of load")
            yield api


def filled_in(expression: str) -> str:
    """The query with values for all of Grafana's variables. Fails if it has others."""
    variables = {
        v["name"]: v.get("allValue") or v["query"] for v in json.loads(DASHBOARD.read_text())["templating"]["list"]
    }
    for name, value in {**variables, "__rate_interval": "1m", "__range": "5m"}.items():
        expression = expression.replace(f"${name}", value)
    assert "$" not in expression
    return expression


@pytest.mark.parametrize(("panel", "query"), dashboard_queries())
def test_every_query_of_the_dashboard_has_a_result(prometheus: httpx.Client, panel: str, query: str) -> None:
    values = [float(sample["value"][1]) for sample in answer(prometheus, filled_in(query))]
    assert values, f"{panel}: no answer to {query}"
    assert not all(map(math.isnan, values)), f"{panel}: nothing but NaN in answer to {query}"


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_reads_exported_metrics(prometheus: httpx.Client, rule: dict[str, Any]) -> None:
    values = [float(sample["value"][1]) for sample in answer(prometheus, always_answering(rule["expr"]))]
    assert values, rule["expr"]
    assert set(values) <= {0.0, 1.0}


def test_metrics_agree_with_the_load(prometheus: httpx.Client) -> None:
    """Each comparison is one query, so both sides are from the same scrape."""
    of_two = '{candidates="2", steps="1"}'  # no other request has N rounded up to 2
    query = f"sorl_granted_evaluations_total{of_two} / sorl_request_by_budget_seconds_count{of_two}"
    (evaluations,) = answer(prometheus, query)
    assert float(evaluations["value"][1]) == 2 * (1 + load_policy(POLICY).spec.ensemble_size)
    shed = 'sum(sorl_shed_total{reason="too_short"})'
    for other in ('outcome="invalid_request", code="422"', 'outcome="unknown_model", code="404"'):
        (difference,) = answer(prometheus, f"{shed} - sum(sorl_requests_total{{{other}}})")
        assert abs(float(difference["value"][1])) <= 1  # one of each per round; a scrape may be in the middle of one


def test_a_deadline_that_can_not_be_met_is_missed(prometheus: httpx.Client) -> None:
    missed = answer(prometheus, 'sum(sorl_deadlines_total{hz="100", outcome="missed"})')
    assert float(missed[0]["value"][1]) > 0
