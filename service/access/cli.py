"""`sorl-keys`: make keys for a server, and check a keys file."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from kernels.commands import command
from service.access.key_source import NAME, KeysError, KeySource, parse_keys
from service.access.keys import ROLES, SHORTEST, Key, digest_of, new_secret

_ABOUT = """\
Make keys for sorl-serve. A keys file holds a line for each key, with the key's hash:

    sorl-keys new robot-7 --requests-per-second 50 >> keys.toml     # the key itself is shown once, on stderr
    sorl-keys new operator --role admin --role metrics >> keys.toml
    sorl-keys check keys.toml
    sorl-serve --keys-file keys.toml

Clients send 'Authorization: Bearer KEY'. The server follows the file: add a line to let somebody in, delete it to shut
them out. To change a key, make a new one, list both hashes in its line (sha256 = ["OLD", "NEW"]), give the robot its
new key, and delete the old hash.
"""


@command("sorl-keys", KeysError)
def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0, 1 for a fault of a keys file, 2 for a wrong argument."""
    given = _parser().parse_args(arguments)
    if given.action == "check":
        for key in KeySource(file=given.file).read():
            print(_described(key))
        return 0
    secret = sys.stdin.readline().strip() if given.stdin else new_secret()
    if len(secret) < SHORTEST or not secret.isascii():
        raise SystemExit(f"sorl-keys: expected a key of {SHORTEST} ASCII characters or more on stdin")
    line = _line(given, secret)
    parse_keys(line, "new")
    if not given.stdin:
        print(f"The key of {given.name}, which is not kept and not shown again:\n{secret}", file=sys.stderr)
    print(line)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "sorl-keys", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="new | check")
    new = actions.add_parser("new", help="make a key: its line on stdout, the key on stderr")
    new.add_argument("name", type=_name, metavar="NAME", help="letters, digits, '-' and '_'; metrics show it")
    new.add_argument(
        "--role",
        action="append",
        choices=ROLES,
        dest="roles",
        help="act: ask for actions (default); metrics: read /metrics; admin: reload models. May be repeated",
    )
    new.add_argument("--requests-per-second", type=_rate, metavar="X", help="most requests a second")
    new.add_argument(
        "--rows-per-second", type=_rate, metavar="X", help="most network rows (observations x candidates) a second"
    )
    new.add_argument("--stdin", action="store_true", help="hash a key that was made elsewhere, from standard input")
    check = actions.add_parser("check", help="check a keys file and list its keys")
    check.add_argument("file", type=Path, metavar="FILE")
    return parser


def _name(text: str) -> str:
    if not re.fullmatch(NAME, text):
        raise argparse.ArgumentTypeError("expected 1 to 64 letters, digits, '-' and '_'")
    return text


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return rate


def _line(given: argparse.Namespace, secret: str) -> str:
    fields: dict[str, object] = {
        "roles": list(dict.fromkeys(given.roles or ["act"])),
        "sha256": digest_of(secret).hex(),
        "requests_per_second": given.requests_per_second,
        "rows_per_second": given.rows_per_second,
    }
    # JSON's strings, numbers and lists of strings are TOML's too.
    values = [f"{name} = {json.dumps(value)}" for name, value in fields.items() if value is not None]
    return f"{given.name} = {{ {', '.join(values)} }}"


def _described(key: Key) -> str:
    limits = [f"{name} {value:g}" for name, value in key.limits._asdict().items() if value is not None]
    hashes = f"{len(key.digests)} hashes" if len(key.digests) > 1 else ""
    return ": ".join([key.name, ", ".join([*sorted(key.roles), *limits, *([hashes] if hashes else [])])])


if __name__ == "__main__":
    sys.exit(main())
