"""Which tile computes a batch: a plain function of (rows, architecture of the network).

Few configurations on purpose. Everything about a policy (dimensions, widths, depths, ensemble, LayerNorm, aggregation) is
a run-time number of the kernel, so these configurations are all the code that can ever run, and `sorl-bench aot`
compiles every one of them for every card.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kernels.gpu.packing import Widths

Precision = Literal["bf16", "fp32"]


@dataclass(frozen=True)
class Tile:
    """What one program computes at a time.

    Attributes:
        name: what engine names call it.
        precision: of matrix products' operands; sums are float32 in both.
        rows: candidates of a program.
        columns: outputs of a layer computed at a time.
        depth: inputs of a layer loaded at a time.
        warps: of 32 threads.
        stages: of the software pipeline that loads inputs and weights.
        split: the columns of a layer are spread over programs that meet at a barrier.
    """

    name: str
    precision: Precision
    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    split: bool = False


TILES = {
    tile.name: tile
    for tile in (
        Tile("16x64", "bf16", rows=16, columns=64, depth=64, warps=4, stages=3),
        Tile("64x128", "bf16", rows=64, columns=128, depth=64, warps=8, stages=2),
        Tile("128x128", "bf16", rows=128, columns=128, depth=64, warps=8, stages=2),
        Tile("16x64/fp32", "fp32", rows=16, columns=64, depth=32, warps=4, stages=2),
        Tile("16x64/split", "bf16", rows=16, columns=64, depth=64, warps=4, stages=3, split=True),
    )
}
"""All configurations there are."""


@dataclass(frozen=True)
class TritonOptions:
    """How the Triton backend computes.

    Attributes:
        precision: "bf16", or "fp32" (IEEE products, no TF32) to see what bf16 costs.
        replay: "exact": one tile for every batch of a policy, so that an action is the same to the bit whatever shared
            its batch. "fastest": the tile that the batch's rows ask for; actions then differ by up to about 1e-3
            between batches.
        split: spread the columns of small batches over programs. Never run on hardware yet, hence off.
    """

    precision: Precision = "bf16"
    replay: Literal["exact", "fastest"] = "exact"
    split: bool = False


SPLIT_ROWS = 256
"""Most rows of a batch that the split mode takes: above, whole tiles fill the card (docs/performance.md)."""


def choose_tile(rows: int, widths: Widths, options: TritonOptions) -> Tile:
    """The tile for a batch of `rows` rows."""
    if options.precision == "fp32":
        return TILES["16x64/fp32"]
    if options.split and rows <= SPLIT_ROWS:
        return TILES["16x64/split"]
    return TILES["64x128"]
