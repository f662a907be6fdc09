"""Planted faults are found: else the decoders' silence would mean nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
from hypothesis import strategies as st

from tests.service.fuzz import harness
from tests.service.fuzz.decoders import Decoder
from tests.service.fuzz.harness import MOST_KEPT, TookTooLong, fuzz


def decoder(read: Callable[[bytes], bool]) -> Decoder:
    return Decoder("planted", read, st.binary(max_size=4), (b"valid",))


def test_a_good_one_is_counted() -> None:
    report = fuzz(decoder(lambda data: data == b"valid"), 100, repeatable=True)
    assert report.inputs == 101
    assert report.accepted == 1
    assert report.kept < MOST_KEPT


def test_an_error_of_another_type_is_found() -> None:
    def fail(data: bytes) -> bool:
        if b"\xff" in data:
            raise KeyError("planted")
        return True

    with pytest.raises(KeyError, match="planted"):
        fuzz(decoder(fail), 500, repeatable=True)


def test_a_refused_valid_input_is_found() -> None:
    with pytest.raises(AssertionError, match="refused b'valid'"):
        fuzz(decoder(lambda data: False), 1, repeatable=True)


def test_a_warning_is_found() -> None:
    def warn(data: bytes) -> bool:
        if len(data) == 3:
            warnings.warn("of three bytes", stacklevel=1)
        return True

    with pytest.raises(AssertionError, match="a warning: of three bytes"):
        fuzz(decoder(warn), 500, repeatable=True)


def test_a_hang_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(data: bytes) -> bool:
        while len(data) == 2:
            pass
        return True

    monkeypatch.setattr(harness, "MOST_SECONDS", 0.05)
    with pytest.raises(TookTooLong):
        fuzz(decoder(hang), 500, repeatable=True)


def test_memory_that_stays_is_found() -> None:
    kept: list[bytes] = []

    def keep(data: bytes) -> bool:
        kept.append(bytes(4096))
        return True

    assert fuzz(decoder(keep), 100, repeatable=True).kept > MOST_KEPT
