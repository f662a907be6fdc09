"""The import rules inside a package whose folders are its rooms (docs/architecture.md).

A room is a folder of the package, or a module that lies directly in it. Arrows say which rooms a room may import from.
Another room's names come from its `__init__`; within a room, modules import each other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
Arrows = Mapping[str, set[str]]


def module_name(path: Path) -> str:
    """Dotted name of a module of this repository."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules(package: str) -> dict[str, Path]:
    """Every module of `package` by its dotted name."""
    return {module_name(path): path for path in sorted((ROOT / package).rglob("*.py"))}


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """(module, name taken from it or None) for every import of a file, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def room_of(module: str) -> str:
    """ "service.budget.frontier" lies in "budget", "service.errors" is a room by itself, "service" is the house."""
    return module.split(".")[1] if "." in module else ""


def imported_modules(package: str, module: str) -> set[str]:
    """The modules of `package` that one of its modules imports. A name that a folder's `__init__` passes on comes from
    the module that the `__init__` has it from: that is where a reader goes.
    """
    known = modules(package)
    found = set()
    for source, name in imports(known[module]):
        target = f"{source}.{name}" if name and f"{source}.{name}" in known else source
        if name and target == source and source in known and known[source].name == "__init__.py":
            target = next((origin for origin, passed in imports(known[source]) if passed == name), source)
        if target in known and target != module:
            found.add(target)
    return found


def breaches(package: str, arrows: Arrows) -> list[str]:
    """One line for each import that `arrows` does not allow, or that reaches into another room past its `__init__`."""
    found = []
    for module in modules(package):
        room = room_of(module)
        if not room:
            continue
        if room not in arrows:
            found.append(f"{module}: the room {room!r} has no arrows")
            continue
        found_here = {
            f"{source}.{name}" if source == package and name else source
            for source, name in imports(modules(package)[module])
        }
        for source in sorted(found_here):
            other = room_of(source) if source.split(".")[0] == package else ""
            if other == room or not other:
                continue
            if other not in arrows[room]:
                found.append(f"{module} imports {source}: no arrow leads from {room!r} to {other!r}")
            elif source != f"{package}.{other}":
                found.append(f"{module} imports {source}: take it from {package}.{other}")
    return found


def above(arrows: Arrows) -> list[str]:
    """Rooms that can reach themselves along the arrows; none, where no room imports one above it."""

    def reach(room: str, seen: set[str]) -> set[str]:
        for other in arrows[room]:
            if other not in seen:
                seen.add(other)
                reach(other, seen)
        return seen

    return [room for room in arrows if room in reach(room, set())]


def longest_chain(package: str) -> list[str]:
    """The longest chain of imports inside `package`. A folder's `__init__` only passes names on and is not counted."""
    known = modules(package)

    @cache
    def chain(module: str) -> tuple[str, ...]:
        below = max((chain(target) for target in sorted(imported_modules(package, module))), key=len, default=())
        return below if known[module].name == "__init__.py" else (module, *below)

    return list(max((chain(module) for module in known), key=len))
