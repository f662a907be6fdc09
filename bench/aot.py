"""`sorl-bench aot`: the compile gate. Every tile that a card may be given, compiled for it, without owning one.

A breach is a register spill, more shared memory than the card has (which the compiler itself does not refuse), a
matrix product without the card's matrix instruction, serialised wgmma, a barrier that the compiler has optimised away,
or a run-time number that it would specialise on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path

from bench.aot_result import Compiled
from bench.table import add_json_option, print_table, write_json
from kernels.gpu.configuration import CARDS, TILES, Tile
from kernels.threads import available_cores

KERNELS = Path(__file__).parent.parent / "kernels" / "gpu"


def pairs() -> list[tuple[Tile, str]]:
    """Every tile with every card that may be given it."""
    return [(tile, card) for card in CARDS for tile in TILES.values() if card in tile.cards]


def cache_folder() -> Path:
    """Where results are kept, by hash of what they depend on."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sorl-serve" / "aot"


def cache_key(tile: Tile, card: str) -> str:
    """Equal keys compile to equal code: our sources, the tile, the card, the compiler."""
    digest = hashlib.sha256(f"{tile}{card}{version('triton')}".encode())
    for source in [*sorted(KERNELS.glob("*.py")), *sorted(Path(__file__).parent.glob("*aot*.py"))]:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def gate(folder: Path | None, progress: Callable[[Compiled], None] = lambda compiled: None) -> list[Compiled]:
    """Compile what `folder` does not know yet, on all cores; `progress` hears of each."""
    from bench.aot_compile import compile_tile

    found: dict[tuple[str, str], Compiled] = {}
    missing = []
    for tile, card in pairs():
        path = None if folder is None else folder / f"{cache_key(tile, card)}.json"
        if path is not None and path.exists():
            content = json.loads(path.read_text())
            found[tile.name, card] = Compiled(**{**content, "remarks": tuple(content["remarks"])})
        else:
            missing.append((tile, card, path))
    with (
        _fresh_triton(),
        ProcessPoolExecutor(min(available_cores(), max(1, len(missing))), get_context("spawn")) as pool,
    ):
        running = [pool.submit(compile_tile, tile, card) for tile, card, _ in missing]
        for (tile, card, path), future in zip(missing, running, strict=True):
            found[tile.name, card] = compiled = future.result()
            progress(compiled)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(asdict(compiled)))
    return [found[tile.name, card] for tile, card in pairs()]


@contextmanager
def _fresh_triton() -> Iterator[None]:
    """Processes started in here import a triton that compiles, also where this one interprets, and caches nothing."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.pop("TRITON_INTERPRET", None)
        os.environ["TRITON_CACHE_DIR"] = scratch
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 all within limits, 1 a breach, 2 triton is missing."""
    parser = argparse.ArgumentParser(prog="sorl-bench aot", description=__doc__)
    parser.add_argument("--no-cache", action="store_true", help="compile everything again")
    add_json_option(parser)
    options = parser.parse_args(arguments)
    try:
        compiler = version("triton")
    except PackageNotFoundError:
        print("sorl-bench aot: error: it needs the package triton: pip install 'sorl-serve[gpu]'", file=sys.stderr)
        return 2

    def progress(compiled: Compiled) -> None:
        if sys.stderr.isatty():
            print(f"compiled {compiled.tile} for {compiled.card}", file=sys.stderr)

    compiled = gate(None if options.no_cache else cache_folder(), progress)
    breaches = [breach for one in compiled for breach in one.breaches()]
    print_table([{**asdict(one), "remarks": "; ".join(one.remarks) or "ok"} for one in compiled])
    print(f"\ntriton {compiler}: {len(compiled)} kernels, {len(breaches)} breaches")
    for breach in breaches:
        print(f"sorl-bench aot: breach: {breach}", file=sys.stderr)
    write_json(options.json, {"triton": compiler, "kernels": [asdict(one) for one in compiled], "breaches": breaches})
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
