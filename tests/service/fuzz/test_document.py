"""The OpenAPI document holds, as Schemathesis sees it. `make fuzz` asks four times as much."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.fuzz.document import check_document


@pytest.mark.slow
def test_the_server_does_what_its_document_says(tmp_path: Path) -> None:
    outcome = check_document(tmp_path, examples=30, seed=1)
    assert outcome.failures == ""
    assert outcome.cases >= 1000
    assert "Traceback" not in outcome.log
