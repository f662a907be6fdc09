"""Bytes of others: nothing but typed errors, no hang, no memory that stays. `make fuzz` gives ten times as many."""

from __future__ import annotations

import pytest

from tests.service.fuzz.decoders import ALL, Decoder
from tests.service.fuzz.harness import MOST_KEPT, fuzz


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ALL, ids=lambda decoder: decoder.name)
def test_bytes_of_others_are_read_or_refused(decoder: Decoder) -> None:
    report = fuzz(decoder, 1500, repeatable=True)
    assert report.inputs >= 1500
    assert len(decoder.valid) < report.accepted < report.inputs / 2
    assert report.kept < MOST_KEPT
