"""The container files name existing settings, files, ports and commands. These tests need no container engine."""

from __future__ import annotations

import fnmatch
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.server import BACKSTOP_SECONDS
from service.settings import Settings, refuse_unknown_environment
from tests.deploy import image
from tests.deploy.image import ROOT

OURS = ("sorl", "sorl-gpu")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return value


@pytest.mark.parametrize("name", OURS)
def test_the_image_sets_known_settings(
    compose: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment = image.environment() | compose["services"][name]["environment"]
    refuse_unknown_environment(environment, Settings.model_fields)
    for variable, value in environment.items():
        if variable.startswith("SORL_"):
            default = value.partition(":-")[2].rstrip("}") if value.startswith("${") else value
            monkeypatch.setenv(variable, default)
    settings = Settings()
    assert settings.port == image.exposed_port() == 8000
    assert settings.device == ("cuda" if name == "sorl-gpu" else "auto")


def test_the_images_command_is_installed() -> None:
    assert shutil.which(image.command()[0], path=str(Path(sys.executable).parent))


def test_what_is_copied_and_mounted_exists(compose: dict[str, Any]) -> None:
    volumes = [volume for service in compose["services"].values() for volume in service.get("volumes", [])]
    mounts = [volume.split(":")[0] for volume in volumes if volume.startswith(".")]
    assert mounts
    for name in image.copied() + mounts:
        assert (ROOT / name).exists(), name
    named = {volume.split(":")[0] for volume in volumes if not volume.startswith(".")}
    assert named == set(compose["volumes"])


def test_nothing_that_is_copied_is_ignored() -> None:
    first, *lines = (ROOT / ".dockerignore").read_text().split()
    assert first == "*"
    let_in = [line[1:] for line in lines if line.startswith("!")]
    assert sorted(let_in) == sorted(image.copied())
    for pattern in (line for line in lines if not line.startswith("!")):
        assert pattern.startswith("**/")
        assert not [name for name in image.copied() if fnmatch.fnmatch(Path(name).name, pattern[3:])]


def test_prometheus_scrapes_the_services_ports(compose: dict[str, Any]) -> None:
    configuration = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    fixed, named = configuration["scrape_configs"]
    assert fixed["static_configs"] == [{"targets": [f"sorl:{image.exposed_port()}"]}]
    (lookup,) = named["dns_sd_configs"]
    assert lookup["names"] == ["sorl-gpu"]
    assert lookup["port"] == image.exposed_port()
    assert set(OURS) < set(compose["services"])


def test_grafanas_data_source_is_that_prometheus(compose: dict[str, Any]) -> None:
    path = ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml"
    (source,) = yaml.safe_load(path.read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in compose["services"]


def test_ports_are_published_to_this_machine_only_and_once(compose: dict[str, Any]) -> None:
    published = []
    for service in compose["services"].values():
        (port,) = service["ports"]
        assert port.startswith("127.0.0.1:")
        published.append(port.split(":")[1])
    assert len(set(published)) == len(published)


@pytest.mark.parametrize("setting", [name for name in Settings.model_fields if name.endswith("_port")])
def test_every_port_that_a_setting_opens_is_documented(setting: str) -> None:
    """None is open by default: who has no such clients publishes nothing."""
    assert Settings.model_fields[setting].default is None
    lines = (ROOT / "docs" / "deployment.md").read_text().splitlines()
    assert len([line for line in lines if line.startswith(f"| `SORL_{setting.upper()}")]) == 1


def test_a_drain_ends_before_the_container_is_killed(compose: dict[str, Any]) -> None:
    drains = [field.default for name, field in Settings.model_fields.items() if name.startswith("drain_")]
    for name in OURS:
        assert int(compose["services"][name]["stop_grace_period"].removesuffix("s")) > sum(drains) + BACKSTOP_SECONDS


def test_services_wait_for_the_health_of_what_they_need(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            checked = needed in OURS and "HEALTHCHECK" in image.STAGE
            assert checked or "healthcheck" in compose["services"][needed]


def test_every_service_is_bounded_and_without_privileges(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    for name in OURS:
        assert compose["services"][name]["read_only"] is True
    assert compose["services"]["sorl-gpu"]["profiles"] == ["gpu"]
