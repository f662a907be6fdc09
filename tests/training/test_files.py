"""A folder's hash covers contents and names."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

from training.files import OutputError, require_file, require_folder, sha256_of_folder


def test_a_folders_hash_depends_on_names_and_contents_only(tmp_path: Path) -> None:
    def folder(name: str, files: dict[str, str]) -> str:
        for file, text in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return sha256_of_folder(tmp_path / name)

    first = folder("a", {"x.json": "1", "sub/y": "2"})
    assert folder("b", {"sub/y": "2", "x.json": "1"}) == first
    others = [{"x.json": "1", "sub/y": "3"}, {"x.json": "1", "sub/z": "2"}, {"x.json": "1"}]
    assert len({first, *(folder(str(index), files) for index, files in enumerate(others))}) == 4


@pytest.mark.parametrize(
    ("main", "arguments", "flag"),
    [
        ("train", "--dataset absent.npz --run-dir", "--run-dir"),
        ("data.generate", "pointmaze-medium --out-dir", "--out-dir"),
        ("evaluation.evaluate", "absent.safetensors --json", "--json"),
        ("evaluation.evaluate", "absent.safetensors --csv", "--csv"),
        ("release.export", "absent.safetensors --out", "--out"),
        ("release.import_released", "absent.pkl --env cube-single --out", "--out"),
        ("results.cli", "absent.safetensors --out", "--out"),
        ("results.cli", "--render", "--render"),
        ("sweep.cli", "--tasks maze --out", "--out"),
        ("sweep.cli", "--tasks maze --json", "--json"),
        ("sweep.cli", "--tasks maze --csv", "--csv"),
        ("sweep.cli", "--tasks maze --page", "--page"),
    ],
)
@pytest.mark.parametrize("path", ["/dev/null", "/dev/null/file", "/proc/zz/file", f"/tmp/{'long' * 100}"])
def test_commands_refuse_what_they_cannot_write_before_they_read(
    main: str, arguments: str, flag: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line. The inputs do not exist, and would be the error of a command that reads first."""
    monkeypatch.setattr(sys, "argv", ["command", *arguments.split(), path])
    with pytest.raises(SystemExit, match=rf"^sorl-\w+: {flag} /[^\n]*: (is not a f|cannot be written: )[^\n]*$"):
        import_module(f"training.{main}").main()
    assert Path("/dev/null").is_char_device()


def test_a_check_leaves_nothing_and_takes_what_is_there(tmp_path: Path) -> None:
    require_folder("--out", tmp_path / "a" / "b")
    require_file("--json", tmp_path / "c" / "d.json")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.json").write_text("{}")
    require_file("--json", tmp_path / "old.json")
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    with pytest.raises(OutputError, match=f"^--json {tmp_path}: is not a file$"):
        require_file("--json", tmp_path)
