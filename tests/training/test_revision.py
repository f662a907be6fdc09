"""The commit in a policy's provenance is this project's or none."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from training.revision import code_revision


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def package_in(folder: Path) -> Path:
    package = folder / "training"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    return package


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit."""
    (tmp_path / "robot.py").write_text("")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "robot.py")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def test_a_checkout_has_its_commit_and_a_mark_for_changes(repository: Path) -> None:
    package = package_in(repository)
    git(repository, "add", "training")
    git(repository, "commit", "--quiet", "--message", "second")
    revision = code_revision(package)
    assert re.fullmatch("[0-9a-f]{12}", revision)
    (package / "__init__.py").write_text("changed = True\n")
    assert code_revision(package) == f"{revision}+"


def test_an_installed_package_does_not_take_the_enclosing_repositorys_commit(repository: Path) -> None:
    assert code_revision(package_in(repository / ".venv" / "lib" / "python3.12" / "site-packages")) == ""


def test_a_package_that_the_repository_does_not_track_has_no_commit(repository: Path) -> None:
    assert code_revision(package_in(repository)) == ""


def test_a_vendored_copy_has_no_commit(repository: Path) -> None:
    package = package_in(repository / "vendor")
    git(repository, "add", "vendor")
    git(repository, "commit", "--quiet", "--message", "second")
    assert code_revision(package) == ""


def test_outside_a_repository_there_is_no_commit(tmp_path: Path) -> None:
    assert code_revision(package_in(tmp_path)) == ""


def test_the_environment_of_a_git_hook_changes_nothing(repository: Path, tmp_path: Path) -> None:
    package = package_in(tmp_path / "installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_DIR", str(repository / ".git"))
        patch.setenv("GIT_WORK_TREE", str(tmp_path / "installed"))
        assert code_revision(package) == ""
