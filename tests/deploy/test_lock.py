"""deploy/requirements.lock holds all that the image installs beside torch, at versions that pyproject.toml allows."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from importlib.metadata import requires, version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy import image
from tests.deploy.image import DOCKERFILE, ROOT

TEXT = (ROOT / "deploy" / "requirements.lock").read_text().replace("\\\n", " ")
LOCKED = {
    canonicalize_name(found[1]): (found[2], found[3])
    for found in re.finditer(r"^([\w.-]+)==(\S+)(.*)", TEXT, flags=re.MULTILINE)
}
"""Version and the rest of the line by name."""

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DIRECT = [
    Requirement(line)
    for line in (
        *PROJECT["project"]["dependencies"],
        *(line for extra in image.extras() for line in PROJECT["project"]["optional-dependencies"][extra]),
        *PROJECT["build-system"]["requires"],
    )
]
APART = "torch"


@pytest.mark.parametrize("requirement", DIRECT, ids=str)
def test_what_the_project_asks_for_is_locked(requirement: Requirement) -> None:
    if requirement.name == APART:
        assert f" {requirement}" in DOCKERFILE
    else:
        locked, _ = LOCKED[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(locked), locked


def test_the_image_serves_every_protocol_and_the_lock_is_made_for_it() -> None:
    assert image.extras() == ["serve", "grpc", "zmq"]
    (made_with,) = re.findall(r"pip-compile\b.* --extra (\S+)", (ROOT / "Makefile").read_text())
    assert made_with == ",".join(image.extras())


@pytest.mark.parametrize("name", ["docs/deployment.md", "docker-compose.yml"])
def test_every_other_image_has_these_extras_too(name: str) -> None:
    others = re.findall(r"\bEXTRAS(?:=|: )([a-z,]+)", (ROOT / name).read_text())
    assert others
    for extras in others:
        assert extras.split(",")[: len(image.extras())] == image.extras()


@pytest.mark.parametrize("name", sorted(LOCKED))
def test_so_is_what_that_needs(name: str) -> None:
    """As the package itself says, where it is installed here in the version that is locked."""
    if version(name) != LOCKED[name][0]:
        return  # another version may need other things
    for requirement in map(Requirement, requires(name) or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            assert requirement.specifier.contains(LOCKED[canonicalize_name(requirement.name)][0]), requirement


def test_every_file_has_a_hash_and_none_a_place() -> None:
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", rest) for _, rest in LOCKED.values())
    assert not re.search(r"://|--index|--find-links|file:|/opt|/work", TEXT)


def test_the_image_is_made_from_it() -> None:
    assert re.search(r"pip install [^&\n]*--require-hashes\s+--requirement deploy/requirements\.lock", DOCKERFILE)
    assert "!deploy/requirements.lock" in (ROOT / ".dockerignore").read_text().splitlines()


@pytest.mark.slow
def test_the_list_of_parts_is_that_of_the_lock_and_the_same_every_time() -> None:
    path = ROOT / "dist" / "sbom.json"
    texts = []
    for _ in range(2):
        subprocess.run(["make", "--assume-old=.venv/.ready-all", "sbom"], cwd=ROOT, check=True)
        texts.append(path.read_bytes())
    assert texts[0] == texts[1]
    found = json.loads(texts[0])
    assert found["bomFormat"] == "CycloneDX"
    parts = {part["name"]: part["version"] for part in found["components"]}
    (torch,) = (requirement for requirement in DIRECT if requirement.name == APART)
    assert parts == {name: version for name, (version, _) in LOCKED.items()} | {APART: str(torch.specifier)[2:]}
