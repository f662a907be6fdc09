"""What can be wrong with a sweep before anything starts.

SweepError
|-- SettingError      a setting's value is not what its field takes
|   `-- UnknownName   there is no such setting; says which names are near
`-- RayUnavailable    Ray is not installed, or the cluster cannot be reached
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SweepError(ValueError):
    """A sweep cannot be started; the message names what is wrong."""


class SettingError(SweepError):
    """A setting has a value of the wrong type, or twice."""


class UnknownName(SettingError):
    """A setting that does not exist.

    Attributes:
        name: what was written.
        near: existing names that look like it, most similar first.
    """

    def __init__(self, where: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        self.name = name
        self.near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(self.near)}?" if self.near else f"there are {', '.join(known)}"
        super().__init__(f"{where}: there is no {name!r}; {hint}")


class RayUnavailable(SweepError):
    """Ray is missing, or its cluster does not answer."""
