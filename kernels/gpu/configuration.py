"""Which tile computes a batch: a plain function of (rows, card).

Few configurations on purpose. Everything about a policy (dimensions, widths, depths, ensemble, LayerNorm, aggregation)
is a run-time number of the kernel, so these configurations are all the code that can ever run, and `sorl-bench aot`
compiles every one of them for every card that may pick it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["bf16", "fp32"]
Replay = Literal["exact", "fastest"]

CARDS = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942")
"""A100, L4 and RTX 40, H100, B200, RTX 50, MI300. Others compile the same code, unchecked."""


@dataclass(frozen=True)
class Tile:
    """What one program computes at a time.

    Attributes:
        name: what engine names call it.
        precision: of matrix products' operands; sums are float32 in both.
        rows: candidates of a program.
        columns: outputs of a layer computed at a time.
        depth: inputs of a layer loaded at a time.
        warps: of 32 threads (of 64 on gfx942).
        stages: of the software pipeline that loads inputs and weights.
        registers: most registers of a thread; None leaves it to the assembler.
        split: the columns of a layer are spread over programs that meet at a barrier.
        cards: those on which it compiles without spilling registers.
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


# One program pulls 64 bytes a clock through its SM's port to L2, some 700 clocks away: three buffers of 17 KB keep that
# port busy, and wide blocks of columns let it rest less often.
_SMALL = Tile("16x256", "bf16", rows=16, columns=256, depth=32, warps=8, stages=4)
_MIDDLE = Tile("64x128", "bf16", rows=64, columns=128, depth=64, warps=8, stages=3)
# Reads each weight half as often as the middle one. With mma.sync (sm_80, 89, 120) it spills 16 to 48 bytes.
_LARGE = Tile(
    "128x128", "bf16", rows=128, columns=128, depth=64, warps=8, stages=3, cards=("sm_90", "sm_100", "gfx942")
)
# Narrow blocks, as they are what is spread. Left to itself the assembler caps it at 168 registers, and spills 16 bytes.
_SPLIT = Tile("16x64/split", "bf16", rows=16, columns=64, depth=64, warps=4, stages=6, registers=255, split=True)
_EXACT = Tile("64x64/fp32", "fp32", rows=64, columns=64, depth=32, warps=8, stages=2, registers=255)

TILES = {tile.name: tile for tile in (_SMALL, _MIDDLE, _LARGE, _SPLIT, _EXACT)}
"""All configurations there are."""

SMALL_ROWS = 4096
"""Batches up to here go to the small tile, as more SMs pull weights at a time (docs/performance.md)."""
LARGE_ROWS = 8192
"""Batches from here on go to the large tile: middle ones would come in a second wave (docs/performance.md)."""
SPLIT_ROWS = 512
"""Batches up to here go to the split mode, where it is on: above, fused tiles occupy the card (docs/performance.md)."""


@dataclass(frozen=True)
class TritonOptions:
    """How the Triton backend computes.

    Attributes:
        precision: "bf16", or "fp32" (IEEE products, no TF32) to see what bf16 costs.
        replay: "exact": one tile for every batch of a policy, so that an action is the same to the bit whatever shared
            its batch. "fastest": the tile that the batch's rows ask for; actions then differ by up to about 1e-3
            between batches.
        split: spread the columns of small batches over programs: 2.3 times as fast up to 256 rows at a width of 512, no
            different at 256 (H100).
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
        # The small tile wins up to more rows than a server puts into a batch by default. The split one spreads nothing
        # where programs fill the card: the same bits.
        return _SPLIT if options.split else _SMALL
    if rows <= SMALL_ROWS:
        return _SMALL
    return _LARGE if rows >= LARGE_ROWS and card in _LARGE.cards else _MIDDLE
