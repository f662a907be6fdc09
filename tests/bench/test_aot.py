"""`sorl-bench aot`: breaches, the cache of results, and one real compilation."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs the extra gpu")

from bench import aot
from bench.aot import cache_key, gate, pairs
from bench.aot_compile import arguments_of, expected_instruction, specialisations
from bench.aot_result import SHARED_LIMIT, Compiled
from kernels.gpu.configuration import CARDS, TILES

GOOD = Compiled("64x128", "sm_89", 225, 0, 49_152, "mma.sync", 132, 100_000)


def test_pairs_have_every_tile_for_every_gpu_that_may_use_it() -> None:
    assert {card for _, card in pairs()} == set(CARDS) == set(SHARED_LIMIT)
    assert {tile.name for tile, _ in pairs()} == set(TILES)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"spill_bytes": 4}, "4 bytes of registers spilled"),
        ({"shared_bytes": 101_377}, "the GPU has 101376"),
        ({"instructions": 0}, "no mma.sync"),
        ({"remarks": ("the assembler serialised wgmma",)}, "serialised"),
    ],
)
def test_a_breach_is_named_and_ends_in_status_1(
    fault: dict[str, object],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = replace(GOOD, **fault)  # type: ignore[arg-type]
    assert not GOOD.breaches()
    assert len(bad.breaches()) == 1
    monkeypatch.setattr(aot, "gate", lambda folder, progress: [GOOD, bad])
    assert aot.main(["--json", str(tmp_path / "aot.json")]) == 1
    assert words in capsys.readouterr().err
    assert len(json.loads((tmp_path / "aot.json").read_text())["breaches"]) == 1


def test_all_tiles_compile_without_breaches(capsys: pytest.CaptureFixture[str]) -> None:
    """27 kernels, which take a minute and a half to compile, and later come from the cache."""
    status = aot.main([])
    assert status == 0, capsys.readouterr()
    assert f"{len(pairs())} kernels, 0 breaches" in capsys.readouterr().out


@pytest.mark.slow
def test_one_tile_compiles_here_and_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tile = TILES["16x64/split"]
    monkeypatch.setattr(aot, "pairs", lambda: [(tile, "sm_90")])
    before, compiled = dict(os.environ), []
    first = gate(tmp_path, compiled.append)
    again = gate(tmp_path, compiled.append)
    assert first == again == compiled
    assert not first[0].breaches()
    assert dict(os.environ) == before


@pytest.mark.parametrize("name", TILES)
def test_one_kernel_serves_actions_and_chunks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton compiles another for a number that is a multiple of 16 in one policy and not in the other."""
    one, seven = (arguments_of(TILES[name], horizon) for horizon in (1, 7))
    assert (one["chunk_dim"], seven["chunk_dim"]) == (3, 21)
    assert (one["action_stride"], seven["action_stride"]) == (16, 32)
    assert specialisations(one) == specialisations(seven) == []
    monkeypatch.setattr("kernels.gpu.packing.INPUT_MULTIPLE", 8)
    assert any("action_stride is 24" in remark for remark in specialisations(arguments_of(TILES[name], 7)))


def test_cache_keys_differ_by_tile_and_gpu() -> None:
    keys = {cache_key(tile, card) for tile, card in pairs()}
    assert len(keys) == len(pairs())


def test_large_tiles_must_use_the_newest_matrix_instruction() -> None:
    assert expected_instruction(TILES["128x128"], "sm_90") == "wgmma.mma_async"
    assert expected_instruction(TILES["128x128"], "sm_100") == "tcgen05.mma"
    assert expected_instruction(TILES["16x256"], "sm_90") == "mma.sync"
    assert expected_instruction(TILES["64x64/fp32"], "sm_80") == "fma.rn.f32"
    assert expected_instruction(TILES["64x128"], "gfx942") == "v_mfma"
