"""The contents of the Dockerfile's last stage, parsed from its text."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
STAGE = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]


def environment() -> dict[str, str]:
    lines = re.findall(r"^ENV (.*)$", STAGE, re.MULTILINE)
    assert lines
    return dict(pair.split("=", 1) for line in lines for pair in line.split())


def command() -> list[str]:
    return _words(r"^CMD (\[.*\])$")


def health_command() -> list[str]:
    return _words(r"^HEALTHCHECK .*CMD (\[.*\])$")


def user() -> str:
    found = re.search(r"^USER (\S+)$", STAGE, re.MULTILINE)
    assert found
    return found[1]


def exposed_port() -> int:
    found = re.search(r"^EXPOSE (\d+)$", STAGE, re.MULTILINE)
    assert found
    return int(found[1])


def extras() -> list[str]:
    """The extras of the default image."""
    found = re.search(r"^ARG EXTRAS=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert found
    return found[1].split(",")


def copied() -> list[str]:
    """All paths that are copied from the build context."""
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    assert lines
    return [word for line in lines for word in line.split()]


def tool(name: str) -> str:
    """The path of a program that the machine has, or that `make test-all` installed."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:{ROOT / '.venv' / 'tools' / 'usr' / 'bin'}")
    assert found, f"{name} is not there: deploy/tools.sh .venv/tools"
    return found


def _words(pattern: str) -> list[str]:
    found = re.search(pattern, STAGE, re.MULTILINE)
    assert found
    words: list[str] = json.loads(found[1])
    return words
