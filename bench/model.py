"""`sorl-bench model`: predicted times of the GPU kernel's tiles, and of alternatives for the same batch.

The hardware's figures are the vendor's. Those marked "assumed" are round numbers that no data sheet has. Nothing here
is measured; `sorl-bench gpu` measures.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass

from bench.table import add_json_option, print_table, write_json
from kernels.gpu.configuration import LARGE_ROWS, SMALL_ROWS, SPLIT_ROWS, TILES, Tile, TritonOptions, choose_tile


@dataclass(frozen=True)
class Card:
    """The parameters of a GPU.

    Attributes:
        name: its architecture, as in `kernels.gpu.configuration`.
        sms: number of streaming multiprocessors.
        clock: their clock rate in Hz.
        flops: dense bf16 operations per clock and SM.
        small_share: the share of `flops` that mma.sync reaches.
        port: bytes per clock from the L2 cache to one SM.
        l2: bytes per second from the L2 cache to all SMs.
        special: exponentials or reciprocals per clock and SM.
    """

    name: str
    sms: int
    clock: float
    flops: float
    small_share: float
    port: float
    l2: float
    special: float


CARDS = {
    "H100": Card("sm_90", 132, 1.755e9, 4096, 0.62, 64, 5.5e12, 16),
    "A100": Card("sm_80", 108, 1.41e9, 2048, 1.0, 64, 4.0e12, 16),
}

# Assumed.
EAGER_OPERATOR = 4.7e-6  # seconds of host time per operator launch
EAGER_OPERATORS = (44, 16.5)  # operators per batch, and per step (the reference with 4 layers and 2 critics)
GRAPH_NODE = 3.75e-6  # seconds from one small dependent kernel to the next in a CUDA graph
GRAPH_NODES = (13, 6)  # kernels per batch, and per step, with one kernel per layer
GRAPH_EFFICIENCY = 0.65  # share of the peak that large cuBLAS products reach
LAUNCH = 12e-6  # seconds for copy in, launch and copy out, as one graph
BLOCK_FILL = 900  # clocks in which a block of columns loads its first operands, and reduces and stores its last
BARRIER = 1.2e-6  # seconds for programs to synchronise through L2
LATENCY = 0.6e-6  # seconds from a barrier to the first weights


@dataclass(frozen=True)
class Network:
    """Actor and critics of equal hidden width and depth."""

    obs_dim: int
    action_dim: int  # of a chunk, all its numbers
    width: int
    layers: int
    members: int

    def passes(self, steps: int) -> int:
        """Network evaluations per row: the actor once per step, each critic once."""
        return steps + self.members

    def flop(self, requests: int, rows: int, steps: int) -> float:
        """The fewest floating-point operations; the observation's share counts once per request."""
        inner = (self.layers - 1) * self.width**2
        actor = inner + self.width * (2 * self.action_dim + 2)
        critic = inner + self.width * (self.action_dim + 2)
        share = requests * self.obs_dim * self.width * (1 + self.members)
        return 2.0 * (rows * (steps * actor + self.members * critic) + share)

    def weights(self, steps: int) -> float:
        """Bytes of bf16 weights that one program reads."""
        first = (self.obs_dim + self.action_dim) * self.width
        return 2.0 * self.passes(steps) * ((self.layers - 1) * self.width**2 + first)


PAPER = Network(28, 5, 512, 4, 2)
POINTS = [(1, 1, 1), (1, 32, 4), (1, 256, 8), (16, 32, 4), (64, 32, 4), (256, 64, 8)]
"""(requests, candidates, steps) of the table."""


def floor_seconds(card: Card, network: Network, requests: int, rows: int, steps: int) -> float:
    """The lower bound: all operations at the GPU's dense bf16 peak."""
    return network.flop(requests, rows, steps) / (card.flops * card.clock * card.sms)


def activation_bytes(network: Network, tile: Tile, steps: int) -> float:
    """Bytes of activations that one program reads; it reads them again for every block of columns."""
    blocks = math.ceil(network.width / tile.columns)
    return 2.0 * network.passes(steps) * (network.layers - 1) * blocks * tile.rows * network.width


def special_clocks(card: Card, network: Network, rows: int, steps: int) -> float:
    """Clocks of one SM for the GELUs of `rows` rows: an exponential and a reciprocal per activation."""
    return 2 * rows * network.passes(steps) * network.layers * network.width / card.special


def fused_seconds(card: Card, network: Network, tile: Tile, rows: int, steps: int) -> float:
    """Time of the fused kernel. Programs run in waves, one per SM; loads and products overlap, GELU comes after."""
    programs = math.ceil(rows / tile.rows)
    at_once = min(programs, card.sms)
    traffic = network.weights(steps) + activation_bytes(network, tile, steps)
    load = max(traffic / card.port, at_once * traffic / card.l2 * card.clock)
    share = card.small_share if tile.rows < 64 else 1.0
    multiply = network.flop(0, tile.rows, steps) / (card.flops * share)
    blocks = network.passes(steps) * network.layers * math.ceil(network.width / tile.columns)
    clocks = max(load, multiply) + special_clocks(card, network, tile.rows, steps) + blocks * BLOCK_FILL
    return LAUNCH + math.ceil(programs / card.sms) * clocks / card.clock


def split_seconds(card: Card, network: Network, rows: int, steps: int) -> float:
    """Time of the split mode. Each layer costs a barrier, and each program loads only its share of the weights."""
    tile = TILES["16x64/split"]
    groups = math.ceil(rows / tile.rows)
    slices = max(1, min(math.ceil(network.width / tile.columns), card.sms // groups))
    traffic = (network.weights(steps) + activation_bytes(network, tile, steps)) / slices
    load = max(traffic / card.port / card.clock, min(groups * slices, card.sms) * traffic / card.l2)
    waves = math.ceil(groups * slices / card.sms)
    gelu = special_clocks(card, network, tile.rows, steps) / slices / card.clock
    return LAUNCH + waves * (load + gelu) + network.passes(steps) * network.layers * (BARRIER + LATENCY)


def graphed_seconds(card: Card, network: Network, requests: int, rows: int, steps: int) -> float:
    """Time of one kernel per layer in a CUDA graph: node latencies, products, and activations through L2."""
    nodes = GRAPH_NODES[0] + GRAPH_NODES[1] * steps
    multiply = floor_seconds(card, network, requests, rows, steps) / GRAPH_EFFICIENCY
    move = 2 * 2.0 * rows * network.width * network.passes(steps) * network.layers / card.l2
    return nodes * GRAPH_NODE + multiply + move


def eager_seconds(card: Card, network: Network, requests: int, rows: int, steps: int) -> float:
    """Time of eager torch: the host launches every operator; GELU and LayerNorm are separate operators."""
    host = EAGER_OPERATOR * (EAGER_OPERATORS[0] + EAGER_OPERATORS[1] * steps)
    nodes = GRAPH_NODE * (GRAPH_NODES[0] + GRAPH_NODES[1] * steps)
    device = graphed_seconds(card, network, requests, rows, steps) - nodes
    apart = 3 * 2 * 2.0 * rows * network.width * network.passes(steps) * network.layers / card.l2
    return max(host, device + apart)


def predictions(card: Card, network: Network, point: tuple[int, int, int]) -> dict[str, object]:
    """A row of the table; times in microseconds."""
    requests, candidates, steps = point
    rows = requests * candidates
    tile = choose_tile(rows, card.name, TritonOptions(replay="fastest"))
    exact = choose_tile(rows, card.name, TritonOptions())
    floor = floor_seconds(card, network, requests, rows, steps)
    fused = fused_seconds(card, network, tile, rows, steps)
    programs = math.ceil(rows / tile.rows)
    seconds = {
        "floor": floor,
        "GELU": special_clocks(card, network, rows, steps) / card.sms / card.clock,
        "eager": eager_seconds(card, network, requests, rows, steps),
        "graphed": graphed_seconds(card, network, requests, rows, steps),
        "fused exact": fused_seconds(card, network, exact, rows, steps),
        "fused fastest": fused,
        "split": split_seconds(card, network, rows, steps) if rows <= SPLIT_ROWS else None,
    }
    return {
        "R, N, M": ", ".join(map(str, point)),
        "MFLOP": network.flop(requests, rows, steps) / 1e6,
        "weights MB": programs * network.weights(steps) / 1e6,
        "act. MB": programs * activation_bytes(network, tile, steps) / 1e6,
        **{f"{name} us": None if value is None else value * 1e6 for name, value in seconds.items()},
        "tile": tile.name,
        "of floor": f"{100 * floor / fused:.0f} %",
    }


def thresholds(card: Card, network: Network, steps: int) -> Mapping[str, int]:
    """Rows at which the fastest tile changes, as powers of two: the first where a larger tile is no slower, and the
    last where the split mode is faster."""
    sizes = [1 << power for power in range(4, 17)]

    def first(smaller: str, larger: str) -> int:
        def gains(rows: int) -> bool:
            small, large = (fused_seconds(card, network, TILES[name], rows, steps) for name in (smaller, larger))
            return large <= small

        wins = [rows for rows in sizes if gains(rows)]
        return wins[0] if wins else sizes[-1]

    fused = TILES["16x256"]
    split = [r for r in sizes if split_seconds(card, network, r, steps) < fused_seconds(card, network, fused, r, steps)]
    return {
        "64x128 from": first("16x256", "64x128"),
        "128x128 from": first("64x128", "128x128"),
        "split up to": max(split, default=0),
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command: print the tables. Returns 0."""
    parser = argparse.ArgumentParser(prog="sorl-bench model", description=__doc__)
    parser.add_argument("--card", choices=sorted(CARDS), default="H100")
    for name, default in vars(PAPER).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help="default: %(default)s")
    add_json_option(parser)
    options = parser.parse_args(arguments)
    card = CARDS[options.card]
    network = Network(**{name: getattr(options, name) for name in vars(PAPER)})
    rows = [predictions(card, network, point) for point in POINTS]
    print_table(rows)
    found = {steps: thresholds(card, network, steps) for steps in (1, 4, 8)}
    print(f"\nrows at which the fastest tile changes (configured: {SMALL_ROWS}, {LARGE_ROWS}, {SPLIT_ROWS}):")
    print_table([{"steps": steps, **crossings} for steps, crossings in found.items()])
    write_json(options.json, {"card": options.card, "network": vars(network), "table": rows, "thresholds": found})
    return 0
