"""The container files name things that exist: settings, files, ports, commands. No engine is needed to check that."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings, refuse_unknown_environment

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return value


def dockerfile_environment() -> dict[str, str]:
    line = re.search(r"^ENV (.*)$", DOCKERFILE, re.MULTILINE)
    assert line
    return dict(pair.split("=", 1) for pair in line[1].split())


def test_the_image_sets_known_settings(compose: dict[str, Any]) -> None:
    environment = dockerfile_environment() | compose["services"]["sorl"]["environment"]
    refuse_unknown_environment(environment, Settings.model_fields)
    assert Settings(host=environment["SORL_HOST"], port=environment["SORL_PORT"]).port == 8000


def test_the_images_command_is_installed() -> None:
    command = re.search(r'^CMD \["(.*?)"\]$', DOCKERFILE, re.MULTILINE)
    assert command
    assert shutil.which(command[1], path=str(Path(sys.executable).parent))


def test_what_is_copied_and_mounted_exists(compose: dict[str, Any]) -> None:
    sources = [
        word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE) for word in line.split()
    ]
    mounts = [volume.split(":")[0] for service in compose["services"].values() for volume in service.get("volumes", [])]
    assert sources
    assert mounts
    for name in sources + mounts:
        assert (ROOT / name).exists(), name


def test_prometheus_scrapes_the_services_port(compose: dict[str, Any]) -> None:
    configuration = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    (target,) = configuration["scrape_configs"][0]["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert host in compose["services"]
    assert port == dockerfile_environment()["SORL_PORT"]


def test_grafana_asks_that_prometheus(compose: dict[str, Any]) -> None:
    path = ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml"
    (source,) = yaml.safe_load(path.read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in compose["services"]


def test_ports_are_published_to_this_machine_only(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
