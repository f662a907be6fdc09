"""Where keys come from: the settings `api_key` and `admin_key`, the variable SORL_KEYS, and the keys file.

SORL_KEYS and the file hold the same text, TOML with a table for each key, which fits on a line:

    robot-7 = { roles = ["act"], sha256 = "9f86...", requests_per_second = 50, rows_per_second = 20000 }
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from service.access.keys import Key, Limits, Role, digest_of

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"


class KeysError(Exception):
    """The keys can't be used: one line with the place, the key's name, its field and what was expected.

    It never quotes a value: somebody may have written a key where its hash belongs.
    """


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _Entry(BaseModel):
    """A key as its table has it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    roles: list[Role] = Field(min_length=1)
    sha256: Annotated[list[Annotated[str, Field(pattern="^[0-9a-f]{64}$")]], BeforeValidator(_listed)] = Field(
        min_length=1
    )
    requests_per_second: Annotated[float, Field(ge=0.001, allow_inf_nan=False)] | None = None
    rows_per_second: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None


_Entries = TypeAdapter(dict[Annotated[str, Field(pattern=NAME)], _Entry])


def parse_keys(text: str, place: str) -> list[Key]:
    """The keys of `text`. Raises KeysError, with `place` in its message."""
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise KeysError(f"{place}: not valid TOML: nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError is one; so is an integer of more than 4300 digits
        raise KeysError(f"{place}: not valid TOML, or a name is there twice: {error}") from None
    try:
        entries = _Entries.validate_python(tables)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in fault["loc"] if part != "[key]")
        raise KeysError(f"{place}: {name}: {_expected(fault)}") from None
    return [
        Key(
            name,
            frozenset(entry.roles),
            tuple(bytes.fromhex(digest) for digest in entry.sha256),
            Limits(entry.requests_per_second, entry.rows_per_second),
        )
        for name, entry in entries.items()
    ]


def _expected(fault: Any) -> str:
    match fault["type"]:
        case "string_pattern_mismatch" if fault["ctx"]["pattern"] == NAME:
            return "expected a name of 1 to 64 letters, digits, '-' and '_'"
        case "string_pattern_mismatch":
            return "expected the key's SHA-256 as 64 lower-case hexadecimal digits, as `sorl-keys new` prints it"
        case "extra_forbidden":
            return f"unknown; expected {', '.join(_Entry.model_fields)}"
        case "model_type":
            return 'expected a table: { roles = [...], sha256 = "..." }'
        case "missing":
            return "missing"
        case "too_short":
            return "expected one or more"
        case _:
            return str(fault["msg"]).replace("Input should be", "expected")


@dataclass(frozen=True)
class KeySource:
    """Everything that names keys.

    Attributes:
        api_key, admin_key: the keys of these names, of the roles act and admin; None: there is no such key.
        text: keys in the form of the file; None: there are none.
        file: the keys file; None: there is none.
    """

    api_key: str | None = field(default=None, repr=False)
    admin_key: str | None = field(default=None, repr=False)
    text: str | None = field(default=None, repr=False)
    file: Path | None = None

    def read(self) -> list[Key]:
        """All keys as they are now.

        Raises:
            KeysError: the file can't be read, text or file is wrong, two keys have one name, or one secret.
        """
        settings: list[tuple[str, Role, str | None]] = [
            ("api_key", "act", self.api_key), ("admin_key", "admin", self.admin_key)
        ]  # fmt: skip
        keys = [
            Key(name, frozenset({role}), (digest_of(secret),), shortest=1)
            for name, role, secret in settings
            if secret is not None
        ]
        if self.text is not None:
            keys += parse_keys(self.text, "SORL_KEYS")
        if self.file is not None:
            keys += parse_keys(self._content(self.file), str(self.file))
        _check_distinct(keys)
        return keys

    def state_of_file(self) -> tuple[int, ...]:
        """Changes when the file is written or replaced; empty while there is none."""
        if self.file is None:
            return ()
        try:
            found = self.file.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev

    def _content(self, file: Path) -> str:
        try:
            return file.read_text("utf-8")
        except OSError as error:
            raise KeysError(f"{file}: can't be read: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise KeysError(f"{file}: expected UTF-8") from None


def _check_distinct(keys: list[Key]) -> None:
    names: set[str] = set()
    holders: dict[bytes, str] = {}
    for key in keys:
        if key.name in names:
            raise KeysError(
                f"two keys are named {key.name!r}; while a key is changed its entry may list both hashes: "
                'sha256 = ["...", "..."]'
            )
        names.add(key.name)
        for digest in key.digests:
            if (other := holders.setdefault(digest, key.name)) != key.name:
                raise KeysError(f"{other!r} and {key.name!r} are the same key; expected one entry, with all its roles")
