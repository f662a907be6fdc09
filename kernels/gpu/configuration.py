"""The kernel's tile configurations, and the choice of one by a batch's rows and the GPU.

There are few configurations. All properties of a policy (dimensions, widths, depths, ensemble, LayerNorm, aggregation)
are run-time arguments of the kernel, so no other code can ever run. `sorl-bench aot` compiles each configuration for
each GPU that may use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["bf16", "fp32"]
Replay = Literal["exact", "fastest"]

CARDS = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942")
"""The checked architectures: A100, L4 and RTX 40, H100, B200, RTX 50, MI300. Others compile the same code."""


@dataclass(frozen=True)
class Tile:
    """The block sizes of one program.

    Attributes:
        name: its name in engine names.
        precision: of matrix products' operands; accumulators are float32 in both.
        rows: candidates per program.
        columns: outputs of a layer computed at a time.
        depth: inputs of a layer loaded at a time.
        warps: warps per program, of 32 threads (of 64 on gfx942).
        stages: stages of the software pipeline that loads inputs and weights.
        registers: the most registers per thread; None leaves it to the assembler.
        split: whether several programs share a layer's columns and synchronise at a barrier after it.
        cards: the GPU architectures on which it compiles without register spills.
    """

    name: str
    precision: Precision
    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    registers: int | None = None
    split: bool = False
    cards: tuple[str, ...] = CARDS


# A program loads at most 64 bytes per clock through its SM's port to L2, with a latency of some 700 clocks. Three
# buffers of 17 KB keep the port busy; wide blocks of columns refill the pipeline less often.
_SMALL = Tile("16x256", "bf16", rows=16, columns=256, depth=32, warps=8, stages=4)
_MIDDLE = Tile("64x128", "bf16", rows=64, columns=128, depth=64, warps=8, stages=3)
# Reads each weight half as often as _MIDDLE. With mma.sync (sm_80, 89, 120) it spills 16 to 48 bytes.
_LARGE = Tile(
    "128x128", "bf16", rows=128, columns=128, depth=64, warps=8, stages=3, cards=("sm_90", "sm_100", "gfx942")
)
# Narrow blocks give more programs a share. Without `registers` the assembler takes at most 168 and spills 16 bytes.
_SPLIT = Tile("16x64/split", "bf16", rows=16, columns=64, depth=64, warps=4, stages=6, registers=255, split=True)
_EXACT = Tile("64x64/fp32", "fp32", rows=64, columns=64, depth=32, warps=8, stages=2, registers=255)

TILES = {tile.name: tile for tile in (_SMALL, _MIDDLE, _LARGE, _SPLIT, _EXACT)}
"""All configurations, by name."""

SMALL_ROWS = 4096
"""Batches of up to this many rows use the small tile: more SMs then load weights at once (docs/performance.md)."""
LARGE_ROWS = 8192
"""Batches from this many rows on use the large tile: middle tiles would need a second wave (docs/performance.md)."""
SPLIT_ROWS = 512
"""Batches of up to this many rows use the split mode if it is on; larger ones occupy the GPU without it
(docs/performance.md)."""


@dataclass(frozen=True)
class TritonOptions:
    """How the Triton backend computes.

    Attributes:
        precision: "bf16", or "fp32" (IEEE products, no TF32) to measure the error of bf16.
        replay: "exact": the same tile for every batch, so an action has the same bits in any batch. "fastest": the
            fastest tile for the batch's rows; actions then differ by up to about 1e-3 between batches.
        split: several programs share the columns of small batches: 2.3 times as fast up to 256 rows at a width of 512,
            no faster at a width of 256 (H100).
    """

    precision: Precision = "bf16"
    replay: Replay = "exact"
    split: bool = False


def choose_tile(rows: int, card: str, options: TritonOptions) -> Tile:
    """The tile for a batch of `rows` rows on `card` ("sm_90", ...)."""
    if options.precision == "fp32":
        return _EXACT
    if options.split and rows <= SPLIT_ROWS:
        return _SPLIT
    if options.replay == "exact":
        # The small tile is the fastest for all batches of a server with default settings. The split tile's bits don't
        # depend on how many programs share the columns; with many rows there is one program per group.
        return _SPLIT if options.split else _SMALL
    if rows <= SMALL_ROWS:
        return _SMALL
    return _LARGE if rows >= LARGE_ROWS and card in _LARGE.cards else _MIDDLE
