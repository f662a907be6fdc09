"""Converts settings from TOML, JSON and the command line to the types of a config's fields, and checks their names."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from training.sweep.errors import SettingError, UnknownName


def known_settings(config: type, without: Iterable[str] = ()) -> set[str]:
    """Names of a dataclass's fields, except those in `without`."""
    return set(get_type_hints(config)) - set(without)


def check_names(where: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise UnknownName for the first of `names` that is not in `known`. `where` begins its message."""
    known = set(known)
    for name in names:
        if name not in known:
            raise UnknownName(where, name, known)


def convert(config: type, where: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with the types of the fields of `config`: lists become tuples, strings paths, integers floats.

    Raises:
        SettingError: a value does not fit its field.
    """
    hints = get_type_hints(config)
    converted = {}
    for name, value in values.items():
        try:
            converted[name] = _convert(hints[name], value)
        except TypeError:
            raise SettingError(f"{where}: {name} must be {_describe(hints[name])}, got {value!r}") from None
    return converted


def _convert(hint: Any, value: Any) -> Any:
    """`value` with the type `hint`. Raises TypeError if it does not fit."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        inner = next(argument for argument in arguments if argument is not type(None))
        return None if value is None else _convert(inner, value)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(arguments[0], item) for item in value)
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if type(value) is hint:
        return value
    raise TypeError


def _describe(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _describe(arguments[0])
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is tuple:
        return f"a list, each item {_describe(arguments[0])}"
    names = {bool: "true or false", int: "a whole number", float: "a number", Path: "a path", str: "a text"}
    return names[hint]


def parse_assignment(where: str, text: str) -> tuple[str, list[Any]]:
    """The name and values of NAME=VALUE,VALUE,...

    Values are written as in TOML (`[128,128],[256,256]`), or as bare words (`mean,min`).

    Raises:
        SettingError: there is no name, no "=", or no value.
    """
    name, sign, values = text.partition("=")
    if not (name and sign and values):
        raise SettingError(f"{where}: {text!r} must be NAME=VALUE or NAME=VALUE,VALUE,...")
    try:
        return name, tomllib.loads(f"values = [{values}]")["values"]
    except tomllib.TOMLDecodeError:
        return name, values.split(",")
