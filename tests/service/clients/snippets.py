"""The code that docs/clients.md tells users to write, so that tests run exactly that."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "clients.md"


def snippet(section: str, replaced: dict[str, str], language: str = "python") -> str:
    """The first block of `language` below the heading `section`, with new text for each key of `replaced`."""
    text = PAGE.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    found = re.search(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found, f"{section} has no block of {language}"
    code = found[1]
    for old, new in replaced.items():
        assert old in code, f"{old} is not in the block of {section}"
        code = code.replace(old, new)
    return code
