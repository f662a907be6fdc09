"""Keys as people write them, and one line for each thing they can get wrong. No message quotes a value."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from service.access.key_source import KeysError, KeySource, parse_keys
from service.access.keys import Limits, digest_of, new_secret

SECRET = "a-key-of-a-robot-0123456789-0123456789"
HASH = hashlib.sha256(SECRET.encode()).hexdigest()
OTHER = hashlib.sha256(b"another").hexdigest()


def test_a_line_or_a_table_for_each_key() -> None:
    robot, monitor = parse_keys(
        f"""
        # robots
        robot-7 = {{ roles = ["act"], sha256 = "{HASH}", requests_per_second = 50, rows_per_second = 2e4 }}

        [Monitor_1]
        roles = ["metrics", "admin"]
        sha256 = ["{OTHER}", "{"0" * 64}"]
        """,
        "keys.toml",
    )
    assert (robot.name, robot.roles, robot.limits) == ("robot-7", {"act"}, Limits(50, 20_000))
    assert robot.digests == (digest_of(SECRET),)
    assert (monitor.name, monitor.roles, monitor.limits) == ("Monitor_1", {"metrics", "admin"}, Limits(None, None))
    assert monitor.digests == (bytes.fromhex(OTHER), bytes(32))


GOOD = f'roles = ["act"], sha256 = "{HASH}"'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("robot", "not valid TOML"),
        (f"a = {{ {GOOD} }}\na = {{ {GOOD} }}", "a name is there twice"),
        ("robot = " + "[" * 3000, "nested too deeply"),
        (f"robot = {'9' * 5000}", "not valid TOML"),
        ("robot = 1", r"robot: expected a table"),
        ('robot = { roles = ["act"] }', r"robot\.sha256: missing"),
        (f'robot = {{ sha256 = "{HASH}" }}', r"robot\.roles: missing"),
        (f'robot = {{ roles = [], sha256 = "{HASH}" }}', r"robot\.roles: expected one or more"),
        (f'robot = {{ roles = "act", sha256 = "{HASH}" }}', r"robot\.roles: expected a valid list"),
        (f'robot = {{ roles = ["root"], sha256 = "{HASH}" }}', "expected 'act', 'metrics' or 'admin'"),
        (f'robot = {{ roles = ["act"], sha256 = "{SECRET}" }}', "64 lower-case hexadecimal digits"),
        ('robot = { roles = ["act"], sha256 = [] }', r"robot\.sha256: expected one or more"),
        (
            f"robot = {{ {GOOD}, rate = 5 }}",
            r"robot\.rate: unknown; expected roles, sha256, requests_per_second, rows_",
        ),
        (f"robot = {{ {GOOD}, requests_per_second = 0 }}", r"robot\.requests_per_second: expected greater than"),
        (f"robot = {{ {GOOD}, requests_per_second = inf }}", r"robot\.requests_per_second: expected a finite"),
        (f'robot = {{ {GOOD}, requests_per_second = "5" }}', r"robot\.requests_per_second: expected a valid number"),
        (
            f"robot = {{ {GOOD}, rows_per_second = 0.5 }}",
            r"robot\.rows_per_second: expected greater than or equal to 1",
        ),
        (f'"robot 7" = {{ {GOOD} }}', "robot 7: expected a name of 1 to 64 letters"),
        (f'"{"x" * 65}" = {{ {GOOD} }}', "expected a name of 1 to 64 letters"),
    ],
)
def test_a_fault_is_one_line_that_names_the_place(text: str, expected: str) -> None:
    with pytest.raises(KeysError, match=rf"^keys\.toml: .*{expected}") as caught:
        parse_keys(text, "keys.toml")
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert HASH not in str(caught.value)


def test_all_sources_add_up(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(f"robot = {{ {GOOD} }}")
    text = f'monitor = {{ roles = ["metrics"], sha256 = "{OTHER}" }}'
    keys = KeySource(api_key="one", admin_key="two", text=text, file=file).read()
    assert [(key.name, *key.roles) for key in keys] == [
        ("api_key", "act"), ("admin_key", "admin"), ("monitor", "metrics"), ("robot", "act")
    ]  # fmt: skip
    assert KeySource().read() == []


def test_names_and_secrets_are_distinct(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(f"robot = {{ {GOOD} }}")
    with pytest.raises(KeysError, match="two keys are named 'robot'"):
        KeySource(text=f'robot = {{ roles = ["act"], sha256 = "{OTHER}" }}', file=file).read()
    with pytest.raises(KeysError, match="'api_key' and 'robot' are the same key"):
        KeySource(api_key=SECRET, file=file).read()
    with pytest.raises(KeysError, match="'api_key' and 'admin_key' are the same key"):
        KeySource(api_key="one", admin_key="one").read()


@pytest.mark.parametrize("fault", ["missing", "folder", "binary"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, fault: str) -> None:
    file = tmp_path / "keys.toml"
    if fault == "folder":
        file.mkdir()
    elif fault == "binary":
        file.write_bytes(b"\xff\xfe")
    with pytest.raises(KeysError, match=r"keys\.toml: (can't be read: |expected UTF-8)"):
        KeySource(file=file).read()


def test_a_source_shows_no_key() -> None:
    assert SECRET not in repr(KeySource(api_key=SECRET, admin_key=SECRET, text=SECRET))


def test_new_secrets_are_long_and_never_the_same() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert {(len(secret), secret[:5]) for secret in secrets} == {(48, "sorl_")}
