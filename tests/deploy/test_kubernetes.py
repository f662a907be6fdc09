"""The manifests, rendered by kubectl and checked against Kubernetes' schemas, the server and its settings."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.access import Access, KeySource
from service.lifecycle import Lifecycle
from service.observability.metrics import Metrics
from service.server import BACKSTOP_SECONDS
from service.settings import Settings, refuse_unknown_environment
from service.web import public_routes
from tests.deploy import image
from tests.deploy.image import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
BASE = FOLDER / "base"
# For monitoring.coreos.com/v1, whose schema comes with the operator, not with Kubernetes.
SERVICE_MONITOR = {"endpoints", "jobLabel", "namespaceSelector", "selector", "targetLabels"}
ENDPOINT = {"interval", "path", "port", "scheme", "scrapeTimeout"}


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load(path.read_text())
    return value


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    value: dict[str, Any] = read(BASE / "deployment.yaml")["spec"]["template"]["spec"]
    return value


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    value: dict[str, Any] = only
    return value


def rendered(folder: str) -> dict[str, dict[str, Any]]:
    """Resources by kind, as kubectl renders them."""
    command = [image.tool("kubectl"), "kustomize", str(FOLDER / folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    resources = list(yaml.safe_load_all(done.stdout))
    kinds = {resource["kind"]: resource for resource in resources}
    assert len(kinds) == len(resources)
    return kinds


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["base", "gpu", "keys"])
def test_rendered_manifests_are_valid(folder: str) -> None:
    import kubernetes_validate

    resources = rendered(folder)
    assert set(resources) == {
        "Deployment",
        "HorizontalPodAutoscaler",
        "Namespace",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
    }
    for resource in resources.values():
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
    deployment = resources["Deployment"]
    del deployment["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["httpGet"]["port"]
    with pytest.raises(kubernetes_validate.ValidationError, match="port"):
        kubernetes_validate.validate(deployment, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.slow
def test_the_gpu_overlay_requests_a_gpu_and_keeps_the_rest() -> None:
    base, gpu = (rendered(folder)["Deployment"]["spec"]["template"]["spec"] for folder in ("base", "gpu"))
    (plain,), (with_card,) = base.pop("containers"), gpu.pop("containers")
    assert with_card["resources"]["limits"] == {"cpu": "2", "memory": "8Gi", "nvidia.com/gpu": "1"}
    assert with_card["resources"]["requests"] == with_card["resources"]["limits"]
    assert (plain["image"], with_card["image"]) == ("sorl-serve:cpu", "sorl-serve:gpu")
    assert {"name": "SORL_DEVICE", "value": "cuda"} in with_card["env"]
    assert [entry for entry in with_card["env"] if entry["name"] != "SORL_DEVICE"] == plain["env"]
    assert gpu.pop("tolerations")
    assert gpu == base
    for changed in ("resources", "image", "env"):
        del plain[changed], with_card[changed]
    assert with_card == plain


@pytest.mark.slow
def test_the_keys_overlay_adds_the_file_and_keeps_the_rest() -> None:
    base, keys = (rendered(folder)["Deployment"]["spec"]["template"]["spec"] for folder in ("base", "keys"))
    (plain,), (with_keys,) = base.pop("containers"), keys.pop("containers")
    (variable,) = [entry for entry in with_keys["env"] if entry not in plain["env"]]
    (mount,) = [entry for entry in with_keys["volumeMounts"] if entry not in plain["volumeMounts"]]
    (volume,) = [entry for entry in keys["volumes"] if entry not in base["volumes"]]
    assert (variable["name"], Path(variable["value"]).parent) == ("SORL_KEYS_FILE", Path(mount["mountPath"]))
    assert (mount["name"], mount["readOnly"]) == (volume["name"], True)
    assert "subPath" not in mount
    with_keys["env"].remove(variable)
    with_keys["volumeMounts"].remove(mount)
    keys["volumes"].remove(volume)
    assert (with_keys, keys) == (plain, base)


@pytest.mark.slow
def test_the_service_monitor_finds_the_service() -> None:
    (monitor,) = rendered("monitoring").values()
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "ServiceMonitor")
    service = rendered("base")["Service"]
    assert set(monitor["spec"]) <= SERVICE_MONITOR
    assert monitor["metadata"]["namespace"] == service["metadata"]["namespace"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert set(endpoint) <= ENDPOINT
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    assert endpoint["path"] in paths()


def paths() -> set[str]:
    router = public_routes(Lifecycle(), catalog=None, access=Access(KeySource()), metrics_text=bytes)  # type: ignore[arg-type]
    return {route.path for route in router.routes}  # type: ignore[attr-defined]


def test_probes_use_existing_routes(container: dict[str, Any]) -> None:
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {probe["path"] for probe in probes.values()} <= paths()
    assert {probe["port"] for probe in probes.values()} == {"http"}
    assert probes["liveness"]["path"] == "/healthz"  # /readyz fails in a drain, which a restart would cut short
    assert probes["readiness"]["path"] == "/readyz"


def test_ports_and_labels_agree(container: dict[str, Any]) -> None:
    (port,) = container["ports"]
    assert port == {"name": "http", "containerPort": image.exposed_port()}
    service = read(BASE / "service.yaml")["spec"]
    (published,) = service["ports"]
    assert published["targetPort"] == "http"
    deployment = read(BASE / "deployment.yaml")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    policy = read(BASE / "networkpolicy.yaml")["spec"]
    (inwards,) = policy["ingress"]
    assert [entry["port"] for entry in inwards["ports"]] == ["http"]
    spreads = [spread["labelSelector"] for spread in deployment["template"]["spec"]["topologySpreadConstraints"]]
    budget = read(BASE / "poddisruptionbudget.yaml")["spec"]["selector"]
    for selector in [deployment["selector"], policy["podSelector"], budget, *spreads]:
        assert selector["matchLabels"] == service["selector"] == labels


@pytest.mark.parametrize(
    "file", [BASE / "deployment.yaml", *(FOLDER / name / "deployment.yaml" for name in ("gpu", "keys"))]
)
def test_variables_set_settings(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (container,) = read(file)["spec"]["template"]["spec"]["containers"]
    given = {entry["name"]: entry.get("value", "from a secret") for entry in container["env"]}
    refuse_unknown_environment(given, Settings.model_fields)
    for name, value in (image.environment() | given).items():
        if name.startswith("SORL_"):
            monkeypatch.setenv(name, value)
    assert Settings().host == "0.0.0.0"


def test_no_variables_of_kubernetes_look_like_settings(pod: dict[str, Any]) -> None:
    """Service links would describe a service called sorl-serve in SORL_SERVE_PORT and others."""
    with pytest.raises(ValueError, match="SORL_SERVE_SERVICE_HOST sets nothing"):
        refuse_unknown_environment({"SORL_SERVE_SERVICE_HOST": "10.0.0.1"}, Settings.model_fields)
    assert pod["enableServiceLinks"] is False


def test_the_pod_meets_its_namespaces_security_standard(pod: dict[str, Any], container: dict[str, Any]) -> None:
    assert read(BASE / "namespace.yaml")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    security = pod["securityContext"]
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == image.user()
    assert security["runAsNonRoot"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    writable = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert image.environment()["HOME"] in writable


def test_a_pod_is_not_killed_before_its_drain_is_over(pod: dict[str, Any], container: dict[str, Any]) -> None:
    given = {entry["name"]: entry.get("value") for entry in container["env"]}
    drains = {name: field.default for name, field in Settings.model_fields.items() if name.startswith("drain_")}
    drains["drain_seconds"] = float(given["SORL_DRAIN_SECONDS"])
    program, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    needed = float(seconds) + sum(drains.values()) + BACKSTOP_SECONDS
    assert pod["terminationGracePeriodSeconds"] > needed


def test_cores_are_whole_and_guaranteed(container: dict[str, Any]) -> None:
    resources = container["resources"]
    assert resources["requests"] == resources["limits"]
    assert int(resources["limits"]["cpu"]) >= 1


def test_the_autoscalers_metrics_come_from_the_adapter() -> None:
    autoscaler = read(BASE / "horizontalpodautoscaler.yaml")["spec"]
    assert autoscaler["scaleTargetRef"]["name"] == read(BASE / "deployment.yaml")["metadata"]["name"]
    asked = {metric["pods"]["metric"]["name"] for metric in autoscaler["metrics"] if metric["type"] == "Pods"}
    rules = read(FOLDER / "monitoring" / "prometheus-adapter.yaml")["rules"]["custom"]
    assert asked == {rule["name"]["as"] for rule in rules}
    exported = {line.split("{")[0].split()[0] for line in Metrics().text().decode().splitlines() if line[0] != "#"}
    assert {rule["seriesQuery"].split("{")[0] for rule in rules} <= exported


@pytest.mark.slow
def test_prometheus_accepts_the_adapters_queries(tmp_path: Path) -> None:
    rules = []
    for rule in read(FOLDER / "monitoring" / "prometheus-adapter.yaml")["rules"]["custom"]:
        query = rule["metricsQuery"].replace("<<.Series>>", rule["seriesQuery"].split("{")[0])
        query = query.replace("<<.LabelMatchers>>", 'namespace="sorl",pod=~"a|b"').replace("<<.GroupBy>>", "pod")
        assert "<<" not in query
        rules.append({"record": rule["name"]["as"], "expr": query})
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "adapter", "rules": rules}]}))
    done = subprocess.run([image.tool("promtool"), "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{len(rules)} rules found" in done.stdout
