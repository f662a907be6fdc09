"""Errors of a sweep, raised before anything starts.

SweepError
|-- SettingError      a setting's value does not fit its field, or is given twice
|   `-- UnknownName   there is no such setting; suggests similar names
`-- RayUnavailable    Ray is not installed, or the cluster cannot be reached
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SweepError(ValueError):
    """A sweep cannot be started; the message names what is wrong."""


class SettingError(SweepError):
    """A setting's value does not fit its field, or is given twice."""


class UnknownName(SettingError):
    """There is no such setting.

    Attributes:
        name: the name that was given.
        near: similar existing names, most similar first.
    """

    def __init__(self, where: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        self.name = name
        self.near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(self.near)}?" if self.near else f"there are {', '.join(known)}"
        super().__init__(f"{where}: there is no {name!r}; {hint}")


class RayUnavailable(SweepError):
    """Ray is not installed, or its cluster does not answer."""
