"""`sorl-bench aot`: compile every kernel tile for every GPU that may use it, and check the result. Needs no GPU.

Breaches are: a register spill, more shared memory than the GPU has (which the compiler does not check), a matrix
product without the GPU's matrix instruction, serialised wgmma, a barrier that the compiler removed, and a run-time
number that Triton would specialise on.
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
    """Every tile with every GPU architecture that may use it."""
    return [(tile, card) for card in CARDS for tile in TILES.values() if card in tile.cards]


def cache_folder() -> Path:
    """The folder of cached results; files are named by `cache_key`."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sorl-serve" / "aot"


def cache_key(tile: Tile, card: str) -> str:
    """A hash of all that the compiled code depends on: our sources, the tile, the GPU and the compiler."""
    digest = hashlib.sha256(f"{tile}{card}{version('triton')}".encode())
    for source in [*sorted(KERNELS.glob("*.py")), *sorted(Path(__file__).parent.glob("*aot*.py"))]:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def gate(folder: Path | None, progress: Callable[[Compiled], None] = lambda compiled: None) -> list[Compiled]:
    """The results of all `pairs`, from `folder`'s cache or compiled now, on all cores.

    Args:
        folder: the cache; None compiles everything.
        progress: called with each new result.
    """
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
    """Processes that start within this context import a triton that compiles, even if TRITON_INTERPRET is set here, and
    has an empty cache."""
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
    """Run the command. Returns the exit status: 0 without breaches, 1 with some, 2 if triton is missing."""
    parser = argparse.ArgumentParser(prog="sorl-bench aot", description=__doc__)
    parser.add_argument("--no-cache", action="store_true", help="ignore cached results")
    add_json_option(parser)
    options = parser.parse_args(arguments)
    try:
        compiler = version("triton")
    except PackageNotFoundError:
        print("sorl-bench aot: error: the package triton is missing: pip install 'sorl-serve[gpu]'", file=sys.stderr)
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
