"""`code_revision`: the git commit that a policy's provenance names."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

PACKAGE = Path(__file__).parent


def code_revision(package: Path = PACKAGE) -> str:
    """The git commit that `package` was run from, 12 hex digits, with "+" appended when the checkout has changes.

    Returns "" when `package` is not a tracked folder at the top of a checkout: an installed copy may lie inside
    somebody else's repository (a virtual environment in a project's folder), whose commit says nothing about it.
    """
    if _git(package, "rev-parse", "--show-toplevel") != str(package.parent.resolve()):
        return ""
    if not _git(package, "ls-files", "--", "__init__.py"):
        return ""
    return _git(package, "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str:
    """Standard output of git in `folder`; "" where git is missing or fails."""
    # Set inside a hook of another repository, these would name that one.
    outside = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE")}
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, env=outside).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
