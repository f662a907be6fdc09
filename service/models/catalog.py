"""Which policies are served, under which names and in which versions.

    current     every request that pins no version gets it
    older       after the next version was installed: requests that pin it still get it
    gone        after the grace, or once MAX_OLDER newer versions are older

The catalog belongs to the event loop. A request holds the model that it was given, and finishes on it. A version that
is gone leaves memory with the last request that holds it.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from service.errors import UnknownModel, VersionGone
from service.models.model import Model

MAX_OLDER = 2  # older versions of a name, however often it is reloaded: each holds its weights in memory


class CatalogError(ValueError):
    """The default model is not among those served; the message says which there are."""


@dataclass
class _Shelf:
    """The versions of one name; the older ones with the time at which each is gone."""

    current: Model
    older: dict[str, tuple[Model, float]] = field(default_factory=dict)


class Catalog:
    """The models served, by name.

    Args:
        models: at least one, of different names.
        default: name of the model for requests that name none; None is the first in alphabetical order.
        grace: seconds that an older version stays, unless `MAX_OLDER` newer ones become older before.
        clock: seconds, monotonic.

    Raises:
        CatalogError: there is no model of the name `default`.
    """

    def __init__(
        self,
        models: Iterable[Model],
        *,
        default: str | None = None,
        grace: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shelves = {model.name: _Shelf(model) for model in models}
        self._grace = grace
        self._clock = clock
        # Fixed here: a file that is added later must not receive the requests that name no model.
        self._default = min(self._shelves) if default is None else default
        if self._default not in self._shelves:
            raise CatalogError(f"default_model: {default!r} is not among {', '.join(sorted(self._shelves))}")

    def __iter__(self) -> Iterator[Model]:
        """The current version of each name, in alphabetical order."""
        return (self._shelves[name].current for name in sorted(self._shelves))

    def __contains__(self, name: str) -> bool:
        return name in self._shelves

    def find(self, name: str | None, version: str | None = None) -> Model:
        """The model that a request asks for: the current version, or the one it pins.

        Raises:
            UnknownModel: no such name.
            VersionGone: the name is served, but not in this version.
        """
        shelf = self._shelves.get(self._default if name is None else name)
        if shelf is None:
            assert name is not None
            nearest = (difflib.get_close_matches(name, self._shelves, n=1, cutoff=0.0) or [self._default])[0]
            raise UnknownModel(f"model: {name[:80]!r} is not served here; did you mean {nearest!r}?", field="model")
        if version is None or version == shelf.current.version:
            return shelf.current
        older = self.older(shelf.current.name, version)
        if older is None:
            raise VersionGone(
                f"model_version: {shelf.current.name!r} is served in version {shelf.current.version}, "
                f"not {version[:80]!r}",
                field="model_version",
            )
        return older

    def older(self, name: str, version: str) -> Model | None:
        """`name` in an older version; None once its grace is over."""
        shelf = self._shelves.get(name)
        model, gone_at = shelf.older.get(version, (None, 0.0)) if shelf is not None else (None, 0.0)
        return model if gone_at > self._clock() else None

    def install(self, model: Model) -> None:
        """Make `model` the current version of its name; the current one becomes older."""
        shelf = self._shelves.setdefault(model.name, _Shelf(model))
        if shelf.current.version != model.version:
            shelf.older[shelf.current.version] = (shelf.current, self._clock() + self._grace)
        shelf.older.pop(model.version, None)
        while len(shelf.older) > MAX_OLDER:
            del shelf.older[next(iter(shelf.older))]  # the one that became older first
        shelf.current = model

    def expire(self) -> float | None:
        """Drop older versions whose grace is over. Returns the seconds until the next one is; None: there is none."""
        now = self._clock()
        waits = []
        for shelf in self._shelves.values():
            shelf.older = {version: entry for version, entry in shelf.older.items() if entry[1] > now}
            waits += [gone_at - now for _, gone_at in shelf.older.values()]
        return min(waits, default=None)

    def versions(self, name: str) -> list[str]:
        """The versions of `name` that are served, the current one first. Raises UnknownModel."""
        older = [version for version in self._shelves[name].older if self.older(name, version)] if name in self else []
        return [self.find(name).version, *older]

    def describe(self, name: str, version: str | None = None) -> dict[str, Any]:
        """The entry of `name` in /models, of its current version or of another. Raises UnknownModel, VersionGone."""
        model, now = self.find(name, version), self._clock()
        older = self._shelves[name].older.items()
        return {
            **model.describe(),
            "default": name == self._default,
            "older_versions": [
                {"version": version, "seconds_left": round(gone_at - now, 3)}
                for version, (_, gone_at) in older
                if gone_at > now
            ],
        }
