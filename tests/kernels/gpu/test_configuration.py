"""`choose_tile`: which tile computes a batch."""

from __future__ import annotations

import pytest

from kernels.gpu.configuration import CARDS, LARGE_ROWS, SMALL_ROWS, SPLIT_ROWS, TILES, TritonOptions, choose_tile

EVERY = [
    TritonOptions(precision, replay, split)  # type: ignore[arg-type]
    for precision in ("bf16", "fp32")
    for replay in ("exact", "fastest")
    for split in (False, True)
]
ROWS = [1, 16, 100, SPLIT_ROWS, SMALL_ROWS, SMALL_ROWS + 1, LARGE_ROWS - 1, LARGE_ROWS, 100_000]


@pytest.mark.parametrize("card", [*CARDS, "sm_75", "interpreter"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_exact_replay_has_one_tile_for_all_batches(card: str, precision: str) -> None:
    assert len({choose_tile(rows, card, TritonOptions(precision=precision)) for rows in ROWS}) == 1  # type: ignore[arg-type]


def test_exact_replay_in_split_mode_has_one_tile_too() -> None:
    assert {choose_tile(rows, "sm_90", TritonOptions(split=True)).name for rows in ROWS} == {"16x64/split"}


@pytest.mark.parametrize("card", CARDS)
def test_a_gpu_gets_only_tiles_that_compile_without_spills_for_it(card: str) -> None:
    for options in EVERY:
        chosen = [choose_tile(rows, card, options) for rows in ROWS]
        assert all(card in tile.cards for tile in chosen)
        assert [tile.rows for tile in chosen] == sorted(tile.rows for tile in chosen)


def test_every_tile_can_be_chosen() -> None:
    assert {choose_tile(rows, "sm_90", options).name for rows in ROWS for options in EVERY} == set(TILES)


def test_split_is_off_by_default() -> None:
    assert not TritonOptions().split
