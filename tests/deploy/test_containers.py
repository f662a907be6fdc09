"""What the container files start, started without an engine: each command with its environment and its mounts.

Mounts become paths of this machine and fixed ports free ones; nothing else is changed. Grafana is not among them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from sorl_client import Client

from tests.deploy import image
from tests.deploy.image import ROOT

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
LOOKS = 300


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return parsed()


def parsed(*options: str) -> dict[str, Any]:
    """The compose file as podman-compose reads it. It needs only the name of an engine, so `echo` is enough."""
    command = [BIN / "podman-compose", "--podman-path", "/bin/echo", *options, "config"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SORL_")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    value: dict[str, Any] = yaml.safe_load(done.stdout)
    return value


def mounts(service: dict[str, Any], volumes: Path) -> dict[str, Path]:
    """Host paths by their mount points; named volumes are folders below `volumes`."""
    pairs = [volume.split(":")[:2] for volume in service["volumes"]]
    return {target: (ROOT if source.startswith(".") else volumes) / source for source, target in pairs}


def here(text: str, mounted: dict[str, Path]) -> str:
    """`text` with container paths replaced by the mounted host paths."""
    targets = "|".join(map(re.escape, mounted))
    return re.sub(rf"(?<![\w./-])({targets})(?=/|$)", lambda found: str(mounted[found[1]]), text)


@contextmanager
def running(
    command: list[str], environment: dict[str, str], pattern: str
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """HOST:PORT, the first match of `pattern` in what it logs, and the process; SIGTERM must end it with 0."""
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                if found := re.search(pattern, line):
                    break
            else:
                pytest.fail(f"{command[0]} ended:\n{''.join(said)}")
            threading.Thread(target=process.stderr.read).start()  # a full pipe would stop it
            yield found[1], process
        finally:
            process.terminate()
    assert process.returncode == 0


@pytest.fixture(scope="module")
def served(compose: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of the service `sorl`."""
    service = compose["services"]["sorl"]
    environment = image.environment() | service["environment"]
    mounted = mounts(service, ROOT)
    environment = {name: here(value, mounted) for name, value in environment.items()}
    environment |= {"SORL_HOST": "127.0.0.1", "SORL_PORT": "0", "PATH": f"{BIN}:{os.environ['PATH']}"}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path_factory.mktemp("home"))}
    with running(image.command(), environment, r"listening on http://(\S+)") as (address, _):
        with Client(f"http://{address}") as client:
            client.wait_until_ready()
        yield address


def test_the_dockerfile_passes_hadolint() -> None:
    done = subprocess.run([BIN / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_gpu_service_needs_its_profile(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"sorl", "prometheus", "grafana"}
    with_gpu = parsed("--profile", "gpu")["services"]
    assert set(with_gpu) == {"sorl", "sorl-gpu", "prometheus", "grafana"}
    (device,) = with_gpu["sorl-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_the_images_health_check_agrees_with_readyz(served: str) -> None:
    command = [word.replace(f"127.0.0.1:{image.exposed_port()}", served) for word in image.health_command()]
    assert served in command[-1]
    command[0] = str(BIN / command[0])
    assert subprocess.run(command, check=False).returncode == 0
    nobody = [word.replace(f"http://{served}/readyz", f"http://{served}/unready") for word in command]
    assert subprocess.run(nobody, stderr=subprocess.DEVNULL, check=False).returncode != 0


def test_the_service_answers_from_the_mounted_policy(served: str, compose: dict[str, Any]) -> None:
    with Client(f"http://{served}") as client:
        reply = client.act(np.zeros(28, np.float32), num_candidates=4, num_steps=2, seed=1)
    assert reply.model == Path(compose["services"]["sorl"]["environment"]["SORL_MODEL"]).stem


def test_prometheus_scrapes_the_service(served: str, compose: dict[str, Any], tmp_path: Path) -> None:
    service = compose["services"]["prometheus"]
    mounted = mounts(service, tmp_path)
    configuration = tmp_path / "configuration"
    configuration.mkdir()
    for file in mounted["/etc/prometheus"].iterdir():
        text = file.read_text().replace(f"sorl:{image.exposed_port()}", served)
        (configuration / file.name).write_text(text.replace("scrape_interval: 5s", "scrape_interval: 1s"))
    mounted["/etc/prometheus"] = configuration
    command = [here(word, mounted) for word in service["command"]]
    command = [image.tool("prometheus"), *command, "--web.listen-address=127.0.0.1:0"]
    with running(command, dict(os.environ), r'msg="Listening on" address=(\S+)') as (address, process):
        wanted = {"up": "1", "sorl_ready": "1", "sorl_queue_backlog_seconds": "0"}
        assert scraped(f"http://{address}", wanted, process) == wanted


def scraped(url: str, wanted: dict[str, str], process: subprocess.Popen[str]) -> dict[str, str]:
    """Values of the job `sorl`: the wanted ones once they come, else the last."""
    found: dict[str, str] = {}
    with httpx.Client(base_url=url) as client:
        for _ in range(LOOKS):
            for name in wanted:
                reply = client.get("/api/v1/query", params={"query": f'{name}{{job="sorl"}}'}).json()
                for sample in reply.get("data", {}).get("result", []):
                    found[name] = sample["value"][1]
            if found == wanted:
                break
            with pytest.raises(subprocess.TimeoutExpired):  # it must keep running
                process.wait(0.2)
    return found
