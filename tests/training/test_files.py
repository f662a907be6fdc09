"""A folder's hash covers contents and names."""

from __future__ import annotations

from pathlib import Path

from training.files import sha256_of_folder


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
