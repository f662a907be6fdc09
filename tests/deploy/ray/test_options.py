"""`Options`: errors name the invalid one, and valid ones reach the server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.ray.options import Options
from service.settings import Settings, refuse_unknown_environment

FILE = Path(__file__).parent.parent.parent.parent / "deploy" / "ray" / "serve.yaml"


@pytest.fixture(autouse=True)
def _no_sorl_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SORL_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"replicas": 2}, "replicas"),
        ({"num_cpus": 0}, "num_cpus"),
        ({"target_busy": 1.5}, "target_busy"),
        ({"target_backlog_seconds": 0}, "target_backlog_seconds"),
        ({"settings": {"modle": "x"}}, "modle"),
        ({"settings": {"threads": -1}}, "threads"),
    ],
)
def test_an_invalid_option_is_named(arguments: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Options.model_validate(arguments).server_settings()


def test_a_replica_computes_on_the_cores_it_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Options(num_cpus=3).server_settings().threads == 3
    assert Options(num_cpus=3, settings={"threads": 1}).server_settings().threads == 1
    monkeypatch.setenv("SORL_THREADS", "2")
    assert Options(num_cpus=3).server_settings().threads == 2


def test_options_may_be_text_from_a_command_line() -> None:
    options = Options.model_validate({"num_cpus": "4", "num_gpus": "0.5", "max_replicas": "3"})
    assert (options.num_cpus, options.num_gpus, options.max_replicas) == (4, 0.5, 3)


def test_the_shipped_file_has_the_defaults() -> None:
    (application,) = yaml.safe_load(FILE.read_text())["applications"]
    assert Options.model_validate(application["args"]) == Options()
    refuse_unknown_environment(application["runtime_env"]["env_vars"], Settings.model_fields)
    module, _, function = application["import_path"].partition(":")
    assert f"def {function}(" in (FILE.parent.parent.parent / f"{module.replace('.', '/')}.py").read_text()
