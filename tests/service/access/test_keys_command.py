"""`sorl-keys`: what it prints is what the server takes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from service.access import Access, KeySource
from service.access.cli import main
from service.access.keys import Limits


def test_a_new_key_opens_the_server_that_holds_its_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    secrets = []
    for arguments in (
        ["robot-7", "--requests-per-second", "50", "--rows-per-second", "2e4"],
        ["operator", "--role", "admin", "--role", "metrics"],
    ):
        assert main(["new", *arguments]) == 0
        shown = capsys.readouterr()
        with file.open("a") as lines:
            lines.write(shown.out)
        secrets.append(shown.err.splitlines()[-1])
        assert secrets[-1] not in shown.out
    assert len(file.read_text().splitlines()) == 2
    access = Access(KeySource(file=file))
    robot = access.check("act", f"Bearer {secrets[0]}")
    assert (robot.name, robot.limits) == ("robot-7", Limits(50, 20_000))
    for role in ("admin", "metrics"):
        assert access.check(role, f"Bearer {secrets[1]}").name == "operator"  # type: ignore[arg-type]
    assert main(["check", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "robot-7: act, requests_per_second 50, rows_per_second 20000",
        "operator: admin, metrics",
    ]


def test_a_key_that_was_made_elsewhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    secret = "0123456789abcdef0123456789abcdef"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{secret}\n"))
    assert main(["new", "robot", "--stdin"]) == 0
    shown = capsys.readouterr()
    assert secret not in shown.out + shown.err
    assert Access(KeySource(text=shown.out)).check("act", f"Bearer {secret}").name == "robot"


@pytest.mark.parametrize("secret", ["hunter2", "", "x" * 31, "ü" * 40])
def test_a_weak_key_is_refused_without_an_echo(
    secret: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{secret}\n"))
    with pytest.raises(SystemExit, match="expected a key of 32 ASCII characters or more") as caught:
        main(["new", "robot", "--stdin"])
    assert capsys.readouterr().out == ""
    assert not secret or secret not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["new", "robot 7"], "letters, digits"),
        (["new", "robot\n"], "letters, digits"),
        (["new", "robot", "--role", "root"], "invalid choice"),
        (["new", "robot", "--requests-per-second", "-1"], "expected a number above 0"),
        (["new", "robot", "--rows-per-second", "nan"], "expected a number above 0"),
        ([], "required"),
    ],
)
def test_a_wrong_argument_says_what_was_expected(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert expected in capsys.readouterr().err


def test_faults_of_values_and_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^sorl-keys: new: robot\.rows_per_second: expected greater than or equal"):
        main(["new", "robot", "--rows-per-second", "0.5"])
    with pytest.raises(SystemExit, match=r"^sorl-keys: .*none\.toml: can't be read"):
        main(["check", str(tmp_path / "none.toml")])


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    assert "sorl-keys new robot-7" in text
    assert "sorl-serve --keys-file keys.toml" in text
